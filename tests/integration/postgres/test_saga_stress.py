"""A thousand rounds of each race of sagas, with real overlap, against what must hold afterwards."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from eventbus.errors import StorageError
from eventbus.postgres import PostgresStorage
from eventbus.storage import Transaction
from eventbus.storage.sagas import (
    Arm,
    Correlation,
    EffectEnd,
    EffectStart,
    JournalEntry,
    SagaChange,
    SagaRecord,
    SagaStart,
)
from eventbus.testing.conformance.saga_samples import some_change, some_early, some_start
from eventbus.testing.conformance.samples import some_message, unique

ROUNDS = 1000
MILLISECOND = timedelta(milliseconds=1)
DEADLOCK = "EB5011"


@pytest.fixture
async def other(storage: PostgresStorage) -> AsyncIterator[PostgresStorage]:
    """Another process on the same schema."""
    async with PostgresStorage(storage.config) as other:
        yield other


class LostTransactionError(Exception):
    """A rollback from outside."""


def perhaps_fail(chance: random.Random) -> None:
    if chance.random() < 0.03:
        raise LostTransactionError


def transition(record: SagaRecord, by: str) -> SagaChange:
    """The first input ends the saga; what comes later is recorded, and changes nothing."""
    late = record.status != "running"
    entry = JournalEntry(
        version=record.version + 1,
        input_kind=f"{by}, late" if late else by,
        input_id=None,
        from_status=record.status,
        to_status="completed",
        detail=b"{}",
        actor=None,
        worker=by,
    )
    return some_change(record, status="completed", journal=[entry])


async def test_a_reply_and_its_timer_at_once_have_one_winner(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    saga = unique("saga")
    starts = [some_start(saga, f"key-{n}") for n in range(ROUNDS)]
    chance = random.Random(7)
    async with storage.transaction() as tx:
        await tx.sagas.start(starts)
        records = await tx.sagas.lock([start.saga_id for start in starts])
        await tx.sagas.save(
            [
                some_change(one, arm=[Arm("timeout", 1, chance.randrange(800) * MILLISECOND)])
                for one in records
            ]
        )
    over: set[UUID] = set()

    async def replies(where: PostgresStorage, seed: int) -> None:
        order = random.Random(seed)
        waiting = [start.saga_id for start in starts]
        order.shuffle(waiting)
        while waiting:
            batch, waiting = waiting[:8], waiting[8:]
            try:
                async with where.transaction() as tx:
                    found = await tx.sagas.lock(batch)
                    await tx.sagas.save([transition(record, "reply") for record in found])
                    perhaps_fail(order)
            except LostTransactionError:
                waiting += batch
            else:
                over.update(batch)

    async def timers(where: PostgresStorage, seed: int) -> None:
        order = random.Random(seed)
        while len(over) < ROUNDS:
            try:
                async with where.transaction() as tx:
                    fired = await tx.sagas.lock_due([(saga, 1)], limit=16)
                    await tx.sagas.save([transition(record, "timer") for record in fired])
                    perhaps_fail(order)
            except LostTransactionError:
                continue

    async with asyncio.TaskGroup() as tasks:  # a deadlock, or a tripwire, ends it
        for seed, where in enumerate((storage, other)):
            tasks.create_task(replies(where, seed), name=f"replies:{seed}")
            tasks.create_task(timers(where, seed + 10), name=f"timers:{seed}")
    await judge(storage, saga)


async def judge(storage: PostgresStorage, saga: str) -> None:
    """One winner, one row for each version, no timer left; both kinds won."""
    schema = storage.config.schema
    journal: defaultdict[UUID, dict[int, str]] = defaultdict(dict)
    async with storage.transaction() as tx:
        rows = await tx.sql.fetch(
            f"SELECT saga_id, version, input_kind FROM {schema}.saga_journal ORDER BY version"
        )
        left = await tx.sagas.next_due([(saga, 1)])
    for row in rows:
        assert row["version"] not in journal[row["saga_id"]]
        journal[row["saga_id"]][row["version"]] = row["input_kind"]
    winners: Counter[str] = Counter()
    for versions in journal.values():
        assert list(versions) == list(range(1, len(versions) + 1))
        won = [kind for kind in versions.values() if kind in {"reply", "timer"}]
        assert len(won) == 1
        winners[won[0]] += 1
    assert winners.total() == ROUNDS
    assert min(winners["reply"], winners["timer"]) > ROUNDS / 100, "no race: nobody was met"
    assert left is None


async def test_early_events_around_each_start_are_all_taken_once(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    saga = unique("saga")
    keys = [Correlation(saga, "", f"key-{n}") for n in range(ROUNDS)]
    taken: Counter[str] = Counter()
    early = 0
    ahead = asyncio.Event()  # events have a batch's head start: else starts may win every race

    async def starts(where: PostgresStorage) -> None:
        nonlocal early
        await ahead.wait()
        for place in range(0, ROUNDS, 5):
            batch = keys[place : place + 5]
            async with where.transaction() as tx:
                assert await tx.sagas.find(batch) == {}
                await tx.sagas.lock_keys(batch)
                await tx.sagas.start([_start(key) for key in batch])
                drained = [one.key.value for one in await tx.sagas.drain(batch)]
            taken.update(drained)
            early += len(drained)

    async def events(where: PostgresStorage) -> None:
        for place in range(0, ROUNDS, 5):
            batch = keys[place : place + 5]
            async with where.transaction() as tx:
                found = await _found(tx, batch)
                missed = [key for key in batch if key not in found]
                await tx.sagas.stash([some_early(key, some_message(1)) for key in missed])
            taken.update(key.value for key in found)
            ahead.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(starts(storage), name="starts:1")
        tasks.create_task(events(other), name="events:1")
    assert taken == Counter(key.value for key in keys), "a lost event, or one taken twice"
    async with storage.transaction() as tx:
        assert await tx.sagas.drain(keys) == []
    assert early > 0, "no race: every saga was there before its event"


def _start(key: Correlation) -> SagaStart:
    return some_start(key.saga, key.value)


async def _found(tx: Transaction, keys: Sequence[Correlation]) -> set[Correlation]:
    found = await tx.sagas.find(keys)
    missed = [key for key in keys if key not in found]
    if missed:
        await tx.sagas.lock_keys(missed)
        found |= await tx.sagas.find(missed)
    return set(found)


async def test_undo_and_forward_in_any_order_leave_a_ledger_in_balance(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    """1 to 2 forwards against 1 to 2 undos and resolves, in batches of crossed order."""
    schema = storage.config.schema
    ledger = f"{schema}.ledger"
    async with storage.transaction() as tx:
        await tx.sql.execute(f"CREATE TABLE {ledger} (effect uuid, amount int)")
    chance = random.Random(3)
    effects = [uuid4() for _ in range(ROUNDS)]
    undone = set(effects[: ROUNDS // 2])

    async def forward(tx: Transaction, effect: UUID) -> None:
        start = EffectStart(effect_id=effect, state="executing", saga_id=None)
        (row,) = await tx.sagas.begin_effect([start])
        if row.new:
            await tx.sql.execute(f"INSERT INTO {ledger} VALUES ($1, 1)", effect)
            await tx.sagas.finish_effect([EffectEnd(effect_id=effect, state="done")])

    async def undo(tx: Transaction, effect: UUID) -> None:
        start = EffectStart(effect_id=effect, state="fenced", saga_id=None)
        (row,) = await tx.sagas.begin_effect([start])
        if row.state == "done" and effect in undone:
            await tx.sql.execute(f"INSERT INTO {ledger} VALUES ($1, -1)", effect)
            await tx.sagas.finish_effect([EffectEnd(effect_id=effect, state="undone")])

    work = [(forward, effect) for effect in effects for _ in range(chance.choice((1, 2)))]
    work += [(undo, effect) for effect in effects for _ in range(chance.choice((1, 2)))]

    async def worker(where: PostgresStorage, seed: int) -> None:
        mine = work[seed::4]
        random.Random(seed).shuffle(mine)
        for place in range(0, len(mine), 8):
            batch = mine[place : place + 8]
            try:
                await together(where, batch)
            except StorageError as error:  # the dispatcher's fallback: one by one
                if error.code != DEADLOCK:
                    raise
                for one in batch:
                    await together(where, [one])

    async def together(where: PostgresStorage, batch: Sequence[tuple[object, UUID]]) -> None:
        async with where.transaction() as tx:
            for act, effect in batch:
                await (forward if act is forward else undo)(tx, effect)

    async with asyncio.TaskGroup() as tasks:
        for seed, where in enumerate((storage, other, storage, other)):
            tasks.create_task(worker(where, seed), name=f"participant:{seed}")
    async with storage.transaction() as tx:
        rows = await tx.sql.fetch(
            f"SELECT effect, count(*) FILTER (WHERE amount = 1) AS done,"
            f" count(*) FILTER (WHERE amount = -1) AS undone FROM {ledger} GROUP BY effect"
        )
    found = {row["effect"]: (row["done"], row["undone"]) for row in rows}
    assert set(found.values()) <= {(1, 0), (1, 1)}, "twice, or undone without having been done"
    wrong = [effect for effect in undone if found.get(effect, (1, 1)) != (1, 1)]
    assert wrong == [], "an effect stands though its undo came"
