"""What each fault does to a call, and where it may be planned."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from eventbus.errors import (
    CommitUnknownError,
    ConcurrencyError,
    LeaseLostError,
    NotSent,
    PublishError,
    PublishUnknownError,
    Rejected,
    StorageError,
    TransportError,
)
from eventbus.inspection import Selection
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message, new_id
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Transaction
from eventbus.testing.faults import (
    POINTS,
    BreakKeyOrder,
    Conflict,
    Delay,
    DropConfirmed,
    Duplicate,
    Fail,
    FaultPlan,
    FaultyStorage,
    FaultyTransport,
    Hang,
    Kill,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
)
from eventbus.transport import Delivery, Interest, Volatile

OUTBOX = Selection(place="outbox")


def some(number: int, key: str = "k") -> Message:
    return Message(
        id=new_id(), type="t.x", source="/test", topic="t", payload=b"%d" % number, key=key
    )


def numbers(broker: MemoryBroker) -> list[int]:
    return [int(message.payload) for message in broker.published("t")]


@asynccontextmanager
async def faulty(plan: FaultPlan) -> AsyncIterator[tuple[FaultyTransport, MemoryBroker]]:
    broker = MemoryBroker()
    async with FaultyTransport(MemoryTransport(broker), plan) as transport:
        yield transport, broker


@asynccontextmanager
async def stored(plan: FaultPlan) -> AsyncIterator[FaultyStorage]:
    async with FaultyStorage(SqliteStorage(), plan) as storage:
        yield storage


async def rows(storage: FaultyStorage) -> int:
    return len(await storage.inspection.find(OUTBOX, limit=10))


async def add_one(storage: FaultyStorage) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.add([some(1)])


async def test_the_nth_call_fails_and_no_other() -> None:
    error = TransportError("EB2001", "away", where="here", why="a test", next="none")
    async with faulty(FaultPlan.at("publish", 2, Fail(error))) as (transport, broker):
        await transport.publish([some(1)])
        with pytest.raises(TransportError) as raised:
            await transport.publish([some(2)])
        assert raised.value is error
        await transport.publish([some(3)])
        assert numbers(broker) == [1, 3]


async def test_a_lost_reply_is_an_unknown_outcome_of_what_was_done() -> None:
    async with faulty(FaultPlan.at("publish", 1, LoseReply())) as (transport, broker):
        with pytest.raises(PublishUnknownError) as raised:
            await transport.publish([some(1)])
        assert numbers(broker) == [1]
        await raised.value.resolve()
        assert numbers(broker) == [1, 1]
    async with stored(FaultPlan.at("commit", 1, LoseReply())) as storage:
        with pytest.raises(CommitUnknownError) as lost:
            await add_one(storage)
        assert await rows(storage) == 1
        assert await lost.value.resolve() == "committed"


async def test_behind_a_commit_that_hangs_stand_both_truths() -> None:
    truths = set()
    for seed in range(10):
        plan = FaultPlan(seed=seed).add("commit", 1, Hang(seconds=0))
        async with stored(plan) as storage:
            with pytest.raises(CommitUnknownError) as raised:
                await add_one(storage)
            truth = await raised.value.resolve()
            assert await rows(storage) == (truth == "committed")
            truths.add(truth)
    assert truths == {"committed", "rolled_back"}


async def test_duplicates_and_reordering_keep_the_order_of_each_key() -> None:
    async with faulty(FaultPlan.at("publish", 1, Duplicate(times=2))) as (transport, broker):
        await transport.publish([some(1), some(2)])
        assert numbers(broker) == [1, 2, 1, 2, 1, 2]
    moved = 0
    for seed in range(10):
        plan = FaultPlan(seed=seed).add("publish", 1, Reorder())
        async with faulty(plan) as (transport, broker):
            await transport.publish([some(n, key="ab"[n % 2]) for n in range(8)])
            came = numbers(broker)
            assert [n for n in came if n % 2] == [1, 3, 5, 7]
            assert [n for n in came if not n % 2] == [0, 2, 4, 6]
            moved += came != sorted(came)
    assert moved


async def test_an_unroutable_batch_says_what_became_of_each_message() -> None:
    async with faulty(FaultPlan.at("publish", 1, Unroutable())) as (transport, broker):
        with pytest.raises(PublishError) as raised:
            await transport.publish([some(1), some(2)])
        assert raised.value.results == [Rejected("unroutable"), NotSent()]
        assert numbers(broker) == []


async def test_a_conflict_dooms_the_transaction_though_its_error_was_swallowed() -> None:
    async with stored(FaultPlan.at("sql.fetch", 1, Conflict())) as storage:
        with pytest.raises(StorageError, match="doomed"):
            await swallow(storage)
        assert await rows(storage) == 0


async def swallow(storage: FaultyStorage) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.add([some(1)])
        with pytest.raises(ConcurrencyError):
            await tx.sql.fetch("SELECT 1")


async def test_a_savepoint_ends_the_doom_of_a_failed_call() -> None:
    async with stored(FaultPlan.at("sql.fetch", 1, Conflict())) as storage:
        async with storage.transaction() as tx:
            await tx.outbox.add([some(1)])
            with pytest.raises(ConcurrencyError):
                await in_savepoint(tx)
        assert await rows(storage) == 1


async def in_savepoint(tx: Transaction) -> None:
    async with tx.savepoint():
        await tx.sql.fetch("SELECT 1")


async def test_a_lost_lease_fences_what_comes_after_it() -> None:
    async with stored(FaultPlan.at("parking.settle", 1, LoseLease())) as storage:
        ttl = timedelta(seconds=10)
        async with storage.transaction() as tx:
            leases = await tx.leases.acquire(["parked/g"], owner="me", ttl=ttl, limit=1)
        with pytest.raises(LeaseLostError):
            await settle(storage, leases)


async def settle(storage: FaultyStorage, leases: Sequence[object]) -> None:
    async with storage.transaction() as tx:
        await tx.parking.settle(leases[0], [], group="g")  # type: ignore[arg-type]  # a Lease


async def test_the_dead_neither_write_nor_hear_and_end_when_cancelled() -> None:
    plan = FaultPlan.at("commit", 1, Kill(after=True))
    killed = asyncio.Event()
    plan.on_kill = killed.set
    async with stored(plan) as storage:
        task = asyncio.create_task(add_one(storage))
        await killed.wait()
        late = asyncio.create_task(add_one(storage))
        await asyncio.sleep(0)
        assert not task.done()
        for each in (task, late):
            each.cancel()
        await asyncio.gather(task, late, return_exceptions=True)
        assert await rows(storage) == 1


async def test_a_kill_before_the_commit_leaves_nothing() -> None:
    plan = FaultPlan.at("publish.written", 1, Kill())
    killed = asyncio.Event()
    plan.on_kill = killed.set
    async with stored(plan) as storage:
        task = asyncio.create_task(add_one(storage))
        await killed.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await rows(storage) == 0
        assert [(hit.role, hit.call) for hit in plan.hits] == [("publish", "commit")]


async def test_a_zombie_gets_twice_what_it_holds_and_acks_it_once() -> None:
    async with faulty(FaultPlan.at("next", 1, ZombieOwner())) as (transport, broker):
        interest = Interest(group="g", topics=("t",), types=())
        await transport.examine([interest])
        await transport.publish([some(1)])
        async with transport.subscribe(interest, on_lost=nothing) as subscription:
            batches = aiter(subscription)
            first = await anext(batches)
            again = await anext(batches)
            assert [each.redelivered for each in (*first, *again)] == [False, True]
            assert first[0].message == again[0].message
            subscription.ack(again)
            assert broker.unacked("g") == 1
            subscription.ack(first)
            assert broker.unacked("g") == 0


async def nothing(lost: Sequence[Delivery], deadline: float) -> None:
    """Nobody minds."""


def test_a_fault_is_refused_where_no_service_shows_it() -> None:
    with pytest.raises(ValueError, match="does not happen"):
        FaultPlan.at("inbox.receive", 1, Duplicate())
    with pytest.raises(ValueError, match="does not happen"):
        FaultPlan.at("ack", 1, Delay())
    for worse in (DropConfirmed(), BreakKeyOrder()):
        with pytest.raises(ValueError, match="beyond_contract=True"):
            FaultPlan.at("publish", 1, worse)
        with pytest.raises(ValueError, match="beyond_contract=True"):
            FaultPlan.seeded(1, kinds=[worse])


async def test_worse_than_the_contract_serves_to_test_checkers() -> None:
    plan = FaultPlan(beyond_contract=True)
    plan.add("publish", 1, DropConfirmed()).add("publish", 2, BreakKeyOrder())
    async with faulty(plan) as (transport, broker):
        await transport.publish([some(1)])
        await transport.publish([some(2), some(3)])
        assert numbers(broker) == [3, 2]


async def test_the_same_seed_gives_the_same_faults() -> None:
    async def hits(seed: int) -> list[object]:
        plan = FaultPlan.seeded(seed, rate=0.5, kinds=(Duplicate, LoseReply, Unroutable))
        async with faulty(plan) as (transport, _):
            for number in range(20):
                await asyncio.gather(transport.publish([some(number)]), return_exceptions=True)
        return list(plan.hits)

    assert await hits(7) == await hits(7)
    assert await hits(7) != await hits(8)


async def test_healed_nothing_happens_any_more() -> None:
    plan = FaultPlan.seeded(1, rate=1.0, kinds=[Unroutable]).add("publish", 1, Unroutable())
    plan.heal()
    async with faulty(plan) as (transport, broker):
        await transport.publish([some(1)])
        assert numbers(broker) == [1]


def test_every_crash_point_is_a_place_where_a_process_may_die() -> None:
    for point in POINTS:
        assert FaultPlan.at(point, 1, Kill())


def test_a_wrapper_is_volatile_exactly_if_the_inner_one_is() -> None:
    assert isinstance(FaultyTransport(MemoryTransport(), FaultPlan()), Volatile)
