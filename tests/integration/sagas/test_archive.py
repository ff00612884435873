"""What ended long ago is forgotten, by one owner; what nobody came for becomes a dead letter."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from eventbus import Context, EventBus, handles
from eventbus.bus.selection import selected
from eventbus.saga.archive import LEASE, Archive
from eventbus.sqlite import SqliteStorage
from eventbus.storage.sagas import Correlation, EffectStart
from eventbus.testing.conformance.saga_samples import some_change, some_early, some_start
from eventbus.testing.conformance.samples import HandClock, some_message
from tests.integration.sagas.rig import Rig
from tests.unit.saga.shop import CardCharged, ChargeCard

DAY = 86_400.0
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


@pytest.fixture
async def storage(hand: HandClock) -> AsyncIterator[SqliteStorage]:
    async with SqliteStorage(now=hand) as storage:
        yield storage


async def finished(storage: SqliteStorage, amount: int = 1) -> None:
    starts = [some_start("flow", f"key-{n}") for n in range(amount)]
    async with storage.transaction() as tx:
        await tx.sagas.start(starts)
        records = await tx.sagas.lock([start.saga_id for start in starts])
        await tx.sagas.save([some_change(record, status="completed") for record in records])


async def swept(storage: SqliteStorage) -> int:
    return await Archive(storage).once(asyncio.Event())


async def test_a_finished_saga_is_a_tombstone_for_thirty_days(
    storage: SqliteStorage, hand: HandClock
) -> None:
    await finished(storage)
    await hand.advance(29 * DAY)
    assert await swept(storage) == 0
    await hand.advance(2 * DAY)
    assert await swept(storage) == 1


async def test_more_than_a_batch_goes_in_one_turn(storage: SqliteStorage, hand: HandClock) -> None:
    await finished(storage, 1001)
    await hand.advance(31 * DAY)
    assert await swept(storage) == 1001


async def test_effects_are_kept_for_ninety_days(storage: SqliteStorage, hand: HandClock) -> None:
    start = some_start("flow").saga_id
    async with storage.transaction() as tx:
        await tx.sagas.begin_effect([EffectStart(effect_id=start, state="fenced", saga_id=None)])
    await hand.advance(89 * DAY)
    assert await swept(storage) == 0
    await hand.advance(2 * DAY)
    assert await swept(storage) == 1


async def test_an_input_whose_saga_never_came_is_a_dead_letter(
    storage: SqliteStorage, hand: HandClock
) -> None:
    early = some_early(Correlation("flow", "", "A"), some_message(1, key="A"))
    async with storage.transaction() as tx:
        await tx.sagas.stash([early])
    await hand.advance(DAY)
    assert await swept(storage) == 1
    async with storage.transaction() as tx:
        assert (await tx.parking.crowd(group="flow", above=0)).messages == 1


async def test_one_worker_sweeps_at_a_time(storage: SqliteStorage, hand: HandClock) -> None:
    await finished(storage)
    await hand.advance(31 * DAY)
    async with storage.transaction() as tx:
        lease = await tx.leases.acquire([LEASE], owner="another", ttl=AN_HOUR, limit=1)
    assert await swept(storage) == 0
    async with storage.transaction() as tx:
        await tx.leases.release(lease)
    assert await swept(storage) == 1


async def test_a_turn_that_is_over_lets_the_next_worker_in(
    storage: SqliteStorage, hand: HandClock
) -> None:
    assert await swept(storage) == 0
    await finished(storage)
    await hand.advance(0.001)
    assert await Archive(storage, finished=timedelta(0)).once(asyncio.Event()) == 1


async def test_it_runs_beside_sagas_and_beside_participants_only(rig: Rig) -> None:
    @handles(ChargeCard, group="alone")
    async def charge(command: ChargeCard, ctx: Context) -> CardCharged:
        return CardCharged(charge_id="C")

    assert "archive:0" in names()
    async with EventBus("memory://", storage="sqlite://"):
        assert names().count("archive:0") == 1
        async with EventBus("memory://", storage="sqlite://", handlers=[charge]):
            assert names().count("archive:0") == 2


@pytest.mark.parametrize(
    ("only", "works"),
    [
        ("saga", {"consumer:flow", "timers:flow", "calls:flow"}),
        ("saga:flow", {"consumer:flow", "timers:flow", "calls:flow"}),
        ("relay", {"relay:0"}),
        ("consumer:billing", {"consumer:billing", "redelivery:billing"}),
    ],
)
async def test_whatever_part_of_an_app_runs_forgets_what_nobody_needs(
    storage: SqliteStorage, only: str, works: set[str]
) -> None:
    """Else no process of an app that is split would."""
    groups = ("consumer:flow", "consumer:billing", "redelivery:billing")
    roles = (*groups, "timers:flow", "calls:flow", "archive:0", "retention:0", "relay:0")
    services = dict.fromkeys(roles, Archive(storage))
    assert set(selected(services, [only])) == works | {"archive:0", "retention:0"}


def names() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks()]
