"""Orders as sagas of every kind of step, and their participants; one is refused at its pivot."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from eventbus import (
    Command,
    Context,
    Event,
    Reject,
    Rejection,
    Reply,
    Undone,
    UnitOfWork,
    handles,
    undoes,
)
from eventbus.saga import CallContext, Saga, call_step, local_step, starts_on, step, wait_step

ENDS = {"good": "completed", "bad": "compensated"}
DONE = {"reserve": 1, "note": 1, "ship": 1}
UNDONE = {"reserve": 0, "note": 0}
TABLE = "CREATE TABLE effects (order_id text, step text, change integer)"

outside = Path()  # the file in which the outside remembers calls; set before a bus runs


class Placed(Event, type="shop.placed", key="order_id"):
    order_id: str


class Reserved(Reply, type="stock.reserved"):
    place: str


class Reserve(Command[Reserved], type="stock.reserve", key="order_id"):
    order_id: str


class Release(Command[Undone], type="stock.release", key="order_id"):
    order_id: str


class Shipped(Reply, type="shipping.shipped"):
    pass


class NoShip(Rejection, type="shipping.no-ship"):
    pass


class Ship(Command[Shipped], type="shipping.ship", key="order_id", rejects=(NoShip,)):
    order_id: str


class Priced(Reply, type="prices.priced"):
    cents: int


class State(BaseModel):
    order_id: str
    cents: int = 0


class Order(Saga[State], name="order", step_timeout=timedelta(minutes=5)):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order_id=event.order_id)

    @step
    def reserve(self, s: State) -> Reserve:
        return Reserve(order_id=s.order_id)

    @reserve.undo
    def release(self, s: State, reply: Reserved | None) -> Release:
        return Release(order_id=s.order_id)

    @local_step
    async def note(self, s: State, tx: UnitOfWork) -> None:
        await _write(tx, s.order_id, "note", 1)

    @note.undo
    async def unnote(self, s: State, tx: UnitOfWork) -> None:
        await _write(tx, s.order_id, "note", -1)

    @call_step(no_undo="a price is only asked for")
    async def price(self, s: State, call: CallContext) -> Priced:
        _remember(f"{s.order_id} {call.effect_id}\n")
        return Priced(cents=42)

    @price.reply
    def priced(self, s: State, reply: Priced) -> None:
        s.cents = reply.cents

    @wait_step(delay=timedelta(milliseconds=20))
    def rested(self, s: State) -> None: ...

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: State) -> Ship:
        return Ship(order_id=s.order_id)


@handles(Reserve, group="stock")
async def reserve(command: Reserve, ctx: Context) -> Reserved:
    await _write(ctx, command.order_id, "reserve", 1)
    return Reserved(place="1")


@undoes(reserve, Release)
async def release(command: Release, done: Reserved, ctx: Context) -> None:
    await _write(ctx, command.order_id, "reserve", -1)


@handles(Ship, group="shipping")
async def ship(command: Ship, ctx: Context) -> Shipped:
    if command.order_id == "bad":
        raise Reject(NoShip())
    await _write(ctx, command.order_id, "ship", 1)
    return Shipped()


async def _write(tx: UnitOfWork, order_id: str, what: str, change: int) -> None:
    query = "INSERT INTO effects (order_id, step, change) VALUES ($1, $2, $3)"
    await tx.sql.execute(query, order_id, what, change)


def _remember(line: str) -> None:
    with outside.open("a", encoding="utf-8") as file:
        file.write(line)


HANDLERS = (Order, reserve, release, ship)
