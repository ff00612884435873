"""What sagas and participants report about themselves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from eventbus import EventBus
from eventbus.errors import CommitUnknownError, ConcurrencyError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.saga import archive
from eventbus.service import pause
from eventbus.sqlite import SqliteStorage
from eventbus.sqlite.sagas import SqliteSagas
from eventbus.testing.faults import FaultPlan, FaultyStorage, LoseReply
from tests.integration.figures import Figures, Labels
from tests.integration.sagas.rig import Clock, Rig
from tests.integration.sagas.shop import PARTICIPANTS, TABLES, Told
from tests.integration.sagas.test_worker_steps import Booked, Outside, Trip, tell
from tests.unit.saga.shop import OrderPlaced, PlaceOrder


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
async def measured(figures: Figures, clock: Clock, participants: Told) -> AsyncIterator[Rig]:
    bus = EventBus(
        MemoryTransport(MemoryBroker()),
        storage=SqliteStorage(now=clock),
        handlers=[PlaceOrder, *PARTICIPANTS],
        instrumentation=figures,
    )
    participants.prefix = "measured"
    async with bus:
        async with bus.transaction() as tx:
            for table in TABLES:
                await tx.sql.execute(f"CREATE TABLE measured_{table}")
        yield Rig(bus, clock, "measured")


async def test_steps_that_were_undone_are_counted_and_steps_and_transitions_are_timed(
    measured: Rig, figures: Figures, participants: Told
) -> None:
    participants.declined.add("A-1")
    await measured.publish(OrderPlaced(order_id="A-1"))
    assert await measured.status("A-1") == "compensated"
    saga = ("saga", "place-order")
    undone = (saga, ("step", "reserve"), ("outcome", "undone"))
    assert figures.of("saga_compensations_total") == {undone: 1}
    steps = {
        dict(labels)["step"]: len(seconds)
        for (name, labels), seconds in figures.seconds.items()
        if name == "saga_step_duration_seconds"
    }
    assert steps == {"reserve": 2, "charge": 1}  # reserve: its undo too
    taken = figures.seconds["saga_transition_duration_seconds", (saga,)]
    assert len(taken) == 4
    assert min(taken) > 0


async def test_an_undo_that_has_failed_for_good_is_counted(
    measured: Rig, figures: Figures, participants: Told
) -> None:
    participants.declined.add("A-2")
    participants.no_release.add("A-2")
    await measured.publish(OrderPlaced(order_id="A-2"))
    for _ in range(11):
        await measured.pass_time(400)
    assert await measured.status("A-2") == "stuck"
    failed = (("saga", "place-order"), ("step", "reserve"), ("outcome", "failed"))
    assert figures.of("saga_compensations_total") == {failed: 1}


async def test_what_the_fence_answers_instead_of_a_handler_is_counted(
    measured: Rig, figures: Figures, participants: Told
) -> None:
    participants.not_shipped.add("A-3")
    await measured.publish(OrderPlaced(order_id="A-3"))
    assert figures.of("saga_fence_hits_total") == {}
    await measured.pass_time(601)  # it is asked what became of it, behind the dead letter
    participants.not_shipped.clear()
    await measured.bus.dead_letters.change("redrive", actor="tests", group="shipping")
    await measured.bus.until_idle()
    assert await measured.status("A-3") == "completed"
    assert figures.of("saga_fence_hits_total") == {
        (("group", "shipping"), ("outcome", "succeeded")): 1
    }


async def test_a_write_without_the_lock_trips_the_wire(
    measured: Rig, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_locked(*_: object) -> None:
        raise ConcurrencyError("EB7030", "not locked", where="here", why="a test", next="nothing")

    monkeypatch.setattr(SqliteSagas, "save", not_locked)
    with pytest.raises(ConcurrencyError):
        await measured.bus.sagas.start(OrderPlaced(order_id="A-4"))
    assert figures.of("saga_tripwire_total") == {(("saga", "place-order"),): 1}


REPEATED = [
    ("timers:commit+sagas.save", "timers"),
    ("calls:commit+sagas.claim_calls", "calls"),
    ("calls:commit+sagas.finish_calls", "calls"),
    ("archive:commit+leases.acquire", "archive"),
]


@pytest.mark.parametrize(("call", "operation"), REPEATED)
async def test_a_transaction_of_sagas_that_has_no_answer_is_counted(
    call: str, operation: str, figures: Figures, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "EVERY_SECONDS", 0.001)
    Trip.outside = Outside()
    bus, plan = faulty(call, figures, clock)
    async with asyncio.timeout(60), bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE trips (trip text)")
        rig = Rig(bus, clock)
        await rig.publish(Booked(trip="T-lost"))  # it is told at the second attempt, by a timer
        while await rig.status("T-lost", "trip") != "completed" or not plan.hits:
            await rig.pass_time(31)
            await pause(asyncio.Event(), 0.001)
    assert figures.of("unknown_outcomes_total") == unknown(operation, "repeated")


async def by_start(bus: EventBus) -> None:
    await bus.sagas.start(Booked(trip="T-1"))


async def by_a_verb(bus: EventBus) -> None:
    await bus.publish(Booked(trip="T-1"))
    await bus.until_idle()
    found = await bus.sagas.find("trip", "T-1")
    assert found is not None
    await bus.sagas.pause(found.saga_id, actor="tests")


@pytest.mark.parametrize("changed", [by_start, by_a_verb])
async def test_an_operator_is_told_that_there_is_no_answer_and_it_is_counted(
    changed: Callable[[EventBus], Awaitable[None]], figures: Figures, clock: Clock
) -> None:
    Trip.outside = Outside()
    bus, _ = faulty("publish:commit+sagas.save", figures, clock)
    async with asyncio.timeout(60), bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE trips (trip text)")
        with pytest.raises(CommitUnknownError):
            await changed(bus)
    assert figures.of("unknown_outcomes_total") == unknown("saga", "raised")


def faulty(call: str, figures: Figures, clock: Clock) -> tuple[EventBus, FaultPlan]:
    """A bus whose first such call gets no answer."""
    plan = FaultPlan().add(call, 1, LoseReply())
    storage = FaultyStorage(SqliteStorage(now=clock), plan)
    transport = MemoryTransport(MemoryBroker())
    handlers = [Trip, tell]
    return EventBus(transport, storage=storage, handlers=handlers, instrumentation=figures), plan


def unknown(operation: str, outcome: str) -> dict[Labels, int]:
    return {(("operation", operation), ("outcome", outcome)): 1}
