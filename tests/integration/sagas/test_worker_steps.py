"""Steps that the worker runs itself, and tenants: refusals, time-outs, zombies, timers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import BaseModel

from eventbus import (
    Context,
    Event,
    EventBus,
    Group,
    Reject,
    Rejection,
    Reply,
    RetryPolicy,
    UnitOfWork,
    handles,
)
from eventbus.event import Command
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.saga import CallContext, Resend, Saga, call_step, local_step, starts_on, step
from eventbus.sqlite import SqliteStorage
from tests.integration.sagas.rig import Clock, Rig

QUICK = Resend(attempts=2, first=timedelta(seconds=7))


class Booked(Event, type="trip.booked", key="trip"):
    trip: str


class Priced(Reply, type="trip.priced"):
    cents: int


class Full(Rejection, type="trip.full"):
    pass


class Told(Reply, type="trip.told"):
    pass


class Tell(Command[Told], type="trip.tell", key="trip"):
    trip: str


class SoldOutError(Exception):
    pass


class State(BaseModel):
    trip: str
    cents: int = 0


class Outside:
    """What a call meets."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, int]] = []
        self.fails: list[Exception] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.broken = False
        self.full = False
        self.keys: list[str | None] = []
        self.ids: set[str] = set()


class Trip(Saga[State], name="trip", step_timeout=timedelta(minutes=1)):
    outside: Outside

    @starts_on(Booked)
    def begin(self, event: Booked) -> State:
        return State(trip=event.trip)

    @local_step
    async def note(self, s: State, tx: UnitOfWork) -> None:
        await tx.sql.execute("INSERT INTO trips (trip) VALUES ($1)", s.trip)
        if self.outside.full:
            raise Reject(Full())

    @note.undo
    async def unnote(self, s: State, tx: UnitOfWork) -> None:
        await tx.sql.execute("DELETE FROM trips WHERE trip = $1", s.trip)

    @call_step(rejects=(SoldOutError,), resend=QUICK, no_undo="it is only asked for")
    async def price(self, s: State, call: CallContext) -> Priced:
        self.outside.attempts.append((str(call.effect_id), call.attempt))
        await self.outside.goes_on.wait()
        if self.outside.fails:
            raise self.outside.fails.pop(0)
        return Priced(cents=42)

    @price.reply
    def priced(self, s: State, reply: Priced) -> None:
        if self.outside.broken:
            raise ZeroDivisionError
        s.cents = reply.cents

    @step(resend=Resend(attempts=2), no_undo="what was told was told")
    def tell(self, s: State) -> Tell:
        return Tell(trip=s.trip)


@pytest.fixture
def outside() -> Outside:
    Trip.outside = Outside()
    return Trip.outside


ONCE = RetryPolicy(in_place=0, parked=())


@handles(Tell, group=Group("tellers", order="none", retry=ONCE))
async def tell(command: Tell, ctx: Context) -> Told:
    Trip.outside.keys.append(ctx.message.key)
    Trip.outside.ids.add(ctx.message.id)
    if len(Trip.outside.ids) == 1 and command.trip == "T-lost":
        raise RuntimeError("not yet")
    return Told()


@pytest.fixture
async def trips(outside: Outside, clock: Clock) -> AsyncIterator[Rig]:
    storage = SqliteStorage(now=clock)
    bus = EventBus(MemoryTransport(MemoryBroker()), storage=storage, handlers=[Trip, tell])
    async with bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE trips (trip text)")
        yield Rig(bus, clock)


async def noted(rig: Rig) -> int:
    return len(await rig.rows("SELECT trip FROM trips"))


async def test_a_local_step_that_says_no_leaves_nothing_behind(
    trips: Rig, outside: Outside
) -> None:
    outside.full = True
    await trips.publish(Booked(trip="T-1"))
    assert await trips.status("T-1", "trip") == "compensated"
    assert await noted(trips) == 0


async def test_a_call_that_is_refused_undoes_what_was_done(trips: Rig, outside: Outside) -> None:
    outside.fails = [SoldOutError("gone")]
    await trips.publish(Booked(trip="T-1"))
    assert await trips.status("T-1", "trip") == "compensated"
    assert await noted(trips) == 0
    assert len(outside.attempts) == 1


async def test_a_call_that_fails_is_tried_again_under_its_effect_id(
    trips: Rig, outside: Outside
) -> None:
    outside.fails = [OSError("away")]
    await trips.publish(Booked(trip="T-1"))
    assert await trips.status("T-1", "trip") == "running"
    await trips.pass_time(8)
    assert await trips.status("T-1", "trip") == "completed"
    (first, second) = outside.attempts
    assert (first[0], first[1], second[1]) == (second[0], 1, 2)


async def test_a_call_of_which_nobody_knows_is_not_taken_for_done(
    trips: Rig, outside: Outside
) -> None:
    outside.fails = [OSError("away"), OSError("away")]
    await trips.publish(Booked(trip="T-1"))
    await trips.pass_time(8)
    assert await trips.status("T-1", "trip") == "compensated"
    assert await noted(trips) == 0


async def test_a_zombie_whose_call_somebody_else_ended_changes_nothing(
    trips: Rig, outside: Outside
) -> None:
    outside.goes_on.clear()
    await trips.bus.publish(Booked(trip="T-1"))
    with pytest.raises(TimeoutError):
        await trips.bus.until_idle(at_most=timedelta(seconds=1))
    await trips.rows("UPDATE eventbus_saga_call SET fence = fence + 1 RETURNING fence")
    before = (await trips.show("T-1", "trip")).saga
    outside.goes_on.set()
    await trips.bus.until_idle()
    after = (await trips.show("T-1", "trip")).saga
    assert (after.version, after.status) == (before.version, "running")


async def test_an_end_that_the_code_cannot_take_makes_it_stuck_and_the_call_runs_again(
    trips: Rig, outside: Outside
) -> None:
    outside.broken = True
    await trips.publish(Booked(trip="T-1"))
    stuck = (await trips.show("T-1", "trip")).stuck
    assert stuck is not None
    assert stuck.reason == "input-failed"
    outside.broken = False
    await trips.bus.sagas.retry(await trips.id_of("T-1", "trip"), actor="tests")
    await trips.pass_time(301)
    assert await trips.status("T-1", "trip") == "completed"


async def test_what_is_sent_at_a_timer_belongs_to_the_tenant_of_the_saga(
    trips: Rig, outside: Outside
) -> None:
    await trips.bus.publish(Booked(trip="T-lost"), headers={"tenant": "t1"})
    await trips.bus.until_idle()
    await trips.pass_time(5)
    assert outside.keys[0] == "t1/T-lost"
    assert set(outside.keys) == {"t1/T-lost"}
    assert len(outside.ids) == 2  # the timer sent it again, under its effect id
    assert await trips.status("t1/T-lost", "trip") == "completed"
