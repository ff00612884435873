"""Workers of different versions over one storage: what one lacks another one takes over."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from eventbus import Context, Event, EventBus, Reply, handles
from eventbus.event import Command
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.saga import (
    CallContext,
    Resend,
    Saga,
    call_step,
    cancels_on,
    migrates,
    starts_on,
    step,
    wait_step,
)
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage
from eventbus.testing.conformance.samples import unique
from tests.integration.sagas.rig import Clock, PostgresTime, Rig

MINUTE = timedelta(minutes=1)


class Booked(Event, type="trip.booked", key="trip"):
    trip: str


class Cancelled(Event, type="trip.cancelled", key="trip"):
    trip: str


class Paid(Event, type="trip.paid", key="payment"):
    payment: str


class Told(Reply, type="trip.told"):
    pass


class Tell(Command[Told], type="trip.tell", key="trip"):
    trip: str


class Priced(Reply, type="trip.priced"):
    cents: int


class OldState(BaseModel):
    trip: str
    payment: str = ""


class NewState(BaseModel):
    name: str
    payment: str = ""
    cents: int = 0


class OldTrip(Saga[OldState], name="trip", step_timeout=MINUTE):
    @starts_on(Booked)
    def begin(self, event: Booked) -> OldState:
        return OldState(trip=event.trip, payment=f"P-{event.trip}")

    @step(no_undo="telling cannot be taken back")
    def tell(self, s: OldState) -> Tell:
        return Tell(trip=s.trip)

    @call_step(no_undo="a price is only asked for", resend=Resend(attempts=2, first=MINUTE))
    async def ask(self, s: OldState, call: CallContext) -> Priced:
        if call.attempt == 1:
            raise ConnectionError(s.trip)
        return Priced(cents=1)

    @wait_step(Paid, by="payment", timeout=MINUTE)
    def paid(self, s: OldState, event: Paid) -> None: ...

    @cancels_on(Cancelled)
    def cancelled(self, s: OldState, event: Cancelled) -> str:
        return "cancelled"


class NewTrip(Saga[NewState], name="trip", version=2, step_timeout=MINUTE):
    """Steps have other names, the state other fields; nothing leads here from version 1."""

    @starts_on(Booked)
    def begin(self, event: Booked) -> NewState:
        return NewState(name=event.trip)

    @step(no_undo="telling cannot be taken back", renamed_from="tell")
    def say(self, s: NewState) -> Tell:
        return Tell(trip=s.name)

    @call_step(no_undo="a price is only asked for", renamed_from="ask")
    async def price(self, s: NewState, call: CallContext) -> Priced:
        return Priced(cents=len(s.name))

    @price.reply
    def priced(self, s: NewState, reply: Priced) -> None:
        s.cents = reply.cents

    @wait_step(Paid, by="payment", timeout=MINUTE)
    def paid(self, s: NewState, event: Paid) -> None: ...

    @cancels_on(Cancelled)
    def cancelled(self, s: NewState, event: Cancelled) -> str:
        return "cancelled"


class Moved(NewTrip, name="trip", version=2, step_timeout=MINUTE):
    """The same, which takes over what version 1 began."""

    @staticmethod
    @migrates(from_version=1)
    def renamed(state: dict[str, Any]) -> dict[str, Any]:
        if state["trip"] == "unreadable":
            raise ValueError(state["trip"])
        return {"name": state["trip"], "payment": state["payment"]}


@handles(Tell, group="phone")
async def tell(command: Tell, ctx: Context) -> Told:
    return Told()


Make = Callable[..., Rig]


@pytest.fixture(params=["sqlite", "postgres"])
async def make(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Make:
    """A worker that has these versions, not entered, over the storage of all."""
    if request.param == "sqlite":
        return await on_sqlite(tmp_path / "sagas.db", clock)
    schema = unique("versions")
    url = f"{request.getfixturevalue('server')}?schema={schema}"
    broker = MemoryBroker(style="log")

    def made(*sagas: type[Any]) -> Rig:
        bus = _bus(broker, url, sagas)
        return Rig(bus, PostgresTime(bus, schema), schema)

    await made().bus.upgrade()
    return made


async def on_sqlite(file: Path, clock: Clock) -> Make:
    """Workers over one file."""
    broker = MemoryBroker(style="log")

    def made(*sagas: type[Any]) -> Rig:
        return Rig(_bus(broker, SqliteStorage(str(file), now=clock), sagas), clock)

    await made().bus.upgrade()
    return made


def _bus(broker: MemoryBroker, storage: Storage | str, sagas: Sequence[type[Any]]) -> EventBus:
    transport = MemoryTransport(broker)
    return EventBus(transport, storage=storage, handlers=[*sagas, tell], service="trips")


async def begun(old: Rig, trip: str = "A-1") -> None:
    """Its first command stands in the outbox."""
    async with old.bus.client():
        await old.bus.sagas.start(Booked(trip=trip))


async def journal(rig: Rig, trip: str = "A-1") -> list[str]:
    shown = await rig.show(trip, "trip")
    return [each.entry.input_kind for each in shown.journal]


async def test_an_answer_at_a_worker_without_the_version_is_taken_by_one_that_has_it(
    make: Make,
) -> None:
    old, new = make(OldTrip), make(NewTrip)
    await begun(old)
    async with new.bus:
        await new.bus.until_idle()
        assert await new.status("A-1", "trip") == "running"
        assert await journal(new) == ["started", "handed-over"]
        due = await new.bus.sagas.timers(due=True)
        assert [one.name for one in due] == ["handed-over"]  # what an operator sees if none has it
        assert await new.bus.parked.list() == []
    async with old.bus:
        await old.bus.until_idle()
        assert await journal(old) == ["started", "handed-over", "replied"]
        assert await old.bus.sagas.timers(due=True) == []
        assert (await old.show("A-1", "trip")).summary.step == "ask"


async def test_a_worker_says_at_its_start_which_open_sagas_wait_for_another_one(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = make(OldTrip), make(NewTrip)
    await begun(old, "A-1")
    await begun(old, "A-2")
    async with old.bus:
        pass
    assert "wait for a worker" not in caplog.text
    async with new.bus:
        pass
    assert (
        "2 open of trip v1 wait for a worker that knows them: no class has this version,"
        " and no @migrates leads from it; `eventbus saga check` tells more"
    ) in caplog.messages


async def test_events_that_are_handed_over_keep_their_order(make: Make) -> None:
    old, new = make(OldTrip), make(NewTrip)
    await begun(old)
    async with new.bus:
        await new.publish(Booked(trip="A-1"), Cancelled(trip="A-1"), Booked(trip="A-1"))
    async with old.bus:
        await old.bus.until_idle()
        journalled = (await old.show("A-1", "trip")).journal
        handed = [each.entry.input_id for each in journalled if "over" in each.entry.input_kind]
        taken = [
            each.entry.input_id for each in journalled if each.entry.input_kind != "handed-over"
        ]
        assert len(handed) == 4  # the answer of the step too
        assert [one for one in taken if one in handed] == handed


async def test_a_paused_saga_takes_what_was_handed_over_when_it_is_resumed(make: Make) -> None:
    old, new = make(OldTrip), make(NewTrip)
    await begun(old)
    async with old.bus.client():
        await old.bus.sagas.pause(await old.id_of("A-1", "trip"), actor="tests")
    async with new.bus:
        await new.bus.until_idle()
    async with old.bus:
        await old.bus.until_idle()
        assert await journal(old) == ["started", "verb", "handed-over"]
        await old.bus.sagas.resume(await old.id_of("A-1", "trip"), actor="tests")
        await old.bus.until_idle()
        assert (await journal(old))[3:5] in [["verb", "replied"], ["replied", "verb"]]


async def test_an_input_of_an_ended_saga_is_late_at_a_worker_without_its_version(
    make: Make,
) -> None:
    old, new = make(OldTrip), make(NewTrip)
    await begun(old)
    async with old.bus:
        await old.publish(Cancelled(trip="A-1"))
        assert await old.status("A-1", "trip") == "compensated"
    before = len(await _journal_of(new))
    async with new.bus:
        await new.publish(Cancelled(trip="A-1"))
        assert (await journal(new))[before:] == ["handed-over"]
        assert await new.stashed() == 0
        assert await new.bus.sagas.timers() == []


async def _journal_of(rig: Rig) -> list[str]:
    async with rig.bus.client():
        return await journal(rig)


async def test_an_event_that_was_there_first_waits_for_a_worker_with_the_version(
    make: Make,
) -> None:
    """The reminder of a key that the saga added comes to a worker that does not know it."""
    old, new = make(OldTrip), make(NewTrip)
    async with new.bus:
        await new.publish(Paid(payment="P-A-1"))
        assert await new.stashed() == 1
    await begun(old)
    async with new.bus:
        await new.bus.until_idle()
        assert await new.stashed() == 2  # the event, now the saga's own, and its first answer
        assert await journal(new) == ["started", "handed-over", "handed-over"]
    async with old.bus:
        await old.bus.until_idle()
        await old.pass_time(61)  # the call that failed at first
        assert await old.status("A-1", "trip") == "completed"
        assert await old.stashed() == 0


async def test_a_migrating_version_takes_over_steps_and_calls_under_their_new_names(
    make: Make,
) -> None:
    old, new = make(OldTrip), make(Moved)
    await begun(old)
    async with old.bus:
        await old.bus.until_idle()
        assert (await old.show("A-1", "trip")).summary.step == "ask"  # its first attempt failed
    async with new.bus:
        await new.bus.until_idle()
        await new.pass_time(61)
        shown = await new.show("A-1", "trip")
        assert (shown.saga.definition, shown.saga.data_version) == (2, 2)
        assert orjson.loads(shown.saga.data) == {"name": "A-1", "payment": "P-A-1", "cents": 3}
        assert [(row.name, row.status) for row in shown.saga.steps] == [
            ("say", "succeeded"),
            ("price", "succeeded"),
            ("paid", "dispatched"),
        ]


async def test_a_saga_that_a_migration_cannot_read_is_stuck_and_keeps_its_version(
    make: Make,
) -> None:
    old, new = make(OldTrip), make(Moved)
    await begun(old, "unreadable")
    async with new.bus:
        await new.bus.until_idle()
        for _ in range(8):
            await new.pass_time(1000)
        shown = await new.show("unreadable", "trip")
        assert shown.saga.status == "stuck"
        assert (shown.saga.definition, shown.saga.data_version) == (1, 1)
