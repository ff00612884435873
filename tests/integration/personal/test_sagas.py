"""A saga carries personal data and cannot read them; the participants that it asks can."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from eventbus import Command, Context, Event, EventBus, Personal, Reply, Undone, handles, undoes
from eventbus.personal import Sealed
from eventbus.saga import Saga, starts_on, step
from tests.integration.personal.inside import OfFile
from tests.integration.personal.shop import ADA, MASTER

ADDRESS = "12 St James's Square"


class Ordered(Event, type="sealed.ordered", key="order_id"):
    order_id: str
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


class Invited(Reply, type="sealed.invited"):
    customer_id: str
    address: Annotated[str, Personal(subject="customer_id")]


class Invite(Command[Invited], type="sealed.invite", key="order_id"):
    order_id: str
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


class Disinvite(Command[Undone], type="sealed.disinvite", key="order_id"):
    order_id: str


class Posted(Reply, type="sealed.posted"):
    pass


class Post(Command[Posted], type="sealed.post", key="order_id"):
    order_id: str
    customer_id: str
    address: Annotated[str, Personal(subject="customer_id")]


class State(BaseModel):
    order_id: str
    customer_id: str
    email: str
    address: str = ""


carried: list[str] = []
read: list[str] = []


class Inviting(Saga[State], name="inviting", step_timeout=timedelta(minutes=2)):
    @starts_on(Ordered)
    def begin(self, event: Ordered) -> State:
        carried.append(event.email)
        return State(order_id=event.order_id, customer_id=event.customer_id, email=event.email)

    @step
    def invite(self, s: State) -> Invite:
        return Invite(order_id=s.order_id, customer_id=s.customer_id, email=s.email)

    @invite.reply
    def invited(self, s: State, reply: Invited) -> None:
        carried.append(reply.address)
        s.address = reply.address

    @invite.undo
    def disinvite(self, s: State, reply: Invited | None) -> Disinvite:
        return Disinvite(order_id=s.order_id)

    @step(pivot=True, on_unknown="resolve")
    def post(self, s: State) -> Post:
        return Post(order_id=s.order_id, customer_id=s.customer_id, address=s.address)


@handles(Invite, group="inviting-people")
async def invite(command: Invite, ctx: Context) -> Invited:
    read.append(command.email)
    return Invited(customer_id=command.customer_id, address=ADDRESS)


@undoes(invite, Disinvite)
async def disinvite(command: Disinvite, done: Invited | None, ctx: Context) -> None:
    pass


@handles(Post, group="posting")
async def post(command: Post, ctx: Context) -> Posted:
    read.append(command.address)
    return Posted()


def ordered() -> Ordered:
    return Ordered(order_id="A-1", customer_id="c-1", email=ADA)


async def ran(url: str, *, forgotten: bool = False) -> Any:
    carried.clear()
    read.clear()
    handlers = [Inviting, invite, disinvite, post]
    async with EventBus("memory://", storage=url, handlers=handlers, master_key=MASTER) as bus:
        if forgotten:
            await bus.events.forget("c-1")
        await bus.publish(ordered())
        await bus.until_idle()
        (saga,) = await bus.sagas.list()
        return saga


async def test_state_journal_and_answers_are_sealed(tmp_path: Path) -> None:
    saga = await ran(f"sqlite:///{tmp_path / 'shop.db'}")
    assert saga.status == "completed"
    assert all(isinstance(each, Sealed) for each in carried)
    assert len(carried) >= 2
    assert read == [ADA, ADDRESS]
    found = await OfFile(tmp_path / "shop.db").dump()
    assert found.count("sealed:1:") >= 4
    assert [text for text in (ADA, ADDRESS, "St James") if text in found] == []


async def test_of_whom_is_forgotten_a_saga_still_ends(tmp_path: Path) -> None:
    saga = await ran(f"sqlite:///{tmp_path / 'shop.db'}", forgotten=True)
    assert saga.status == "completed"
    assert read == ["[forgotten]", "[forgotten]"]
