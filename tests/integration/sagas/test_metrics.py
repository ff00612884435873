"""What sagas and participants report about themselves."""

from collections.abc import AsyncIterator

import pytest

from eventbus import EventBus
from eventbus.errors import ConcurrencyError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.sqlite.sagas import SqliteSagas
from tests.integration.figures import Figures
from tests.integration.sagas.rig import Clock, Rig
from tests.integration.sagas.shop import PARTICIPANTS, TABLES, Told
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
