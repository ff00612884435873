"""Interleavings of sagas that only several writers have, step by step; mutants must fail them.

Two storages of one schema stand for two processes, so that both can have a transaction open.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest

from eventbus.errors import ConcurrencyError
from eventbus.postgres import PostgresStorage
from eventbus.storage.sagas import (
    Arm,
    Call,
    Correlation,
    EffectEnd,
    EffectRow,
    EffectStart,
    SagaRecord,
    Stashed,
)
from eventbus.testing.conformance.saga_samples import (
    some_call,
    some_change,
    some_early,
    some_start,
    some_step,
)
from eventbus.testing.conformance.samples import LONG, SOON, some_message, unique
from tests.integration.postgres.races import done_or_waiting, waiting

NOW = timedelta(0)
State = Literal["executing", "fenced"]


async def _started(storage: PostgresStorage, keys: Sequence[str]) -> list[SagaRecord]:
    """Sagas of one type, in the order of their ids."""
    saga = unique("saga")
    starts = [some_start(saga, key) for key in keys]
    async with storage.transaction() as tx:
        await tx.sagas.start(starts)
        return list(await tx.sagas.lock([start.saga_id for start in starts]))


async def _locked(storage: PostgresStorage, *ids: UUID) -> list[SagaRecord]:
    async with storage.transaction() as tx:
        return list(await tx.sagas.lock(ids))


async def _fired(storage: PostgresStorage, saga: str) -> list[SagaRecord]:
    async with storage.transaction() as tx:
        return list(await tx.sagas.lock_due([(saga, 1)], limit=10))


async def _begun(storage: PostgresStorage, effect: UUID, state: State) -> EffectRow:
    async with storage.transaction() as tx:
        start = EffectStart(effect_id=effect, state=state, saga_id=None)
        (row,) = await tx.sagas.begin_effect([start])
    return row


async def _done(storage: PostgresStorage, effect: UUID) -> None:
    async with storage.transaction() as tx:
        await tx.sagas.begin_effect(
            [EffectStart(effect_id=effect, state="executing", saga_id=None)]
        )
        await tx.sagas.finish_effect([EffectEnd(effect_id=effect, state="done", reply=b"r")])


async def _arrives(storage: PostgresStorage, key: Correlation) -> bool:
    """An event before its saga: stashed, unless its saga is there when the key is ours."""
    async with storage.transaction() as tx:
        if not await tx.sagas.find([key]):
            await tx.sagas.lock_keys([key])
            if not await tx.sagas.find([key]):
                await tx.sagas.stash([some_early(key, some_message(1))])
                return False
    return True


class SagaRaces:
    """Called with two entered storages of one schema."""

    async def who_waited_for_a_saga_reads_its_steps_of_now(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        (record,) = await _started(one, ["A"])
        async with one.transaction() as tx:
            await tx.sagas.lock([record.saga_id])
            locking = asyncio.create_task(_locked(other, record.saga_id), name="lock:1")
            await waiting(one)
            await tx.sagas.save([some_change(record, steps=[some_step(1)])])
        (seen,) = await locking
        assert (seen.version, len(seen.steps)) == (1, 1)

    async def a_timer_leaves_a_saga_whose_reply_is_at_work(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        (record,) = await _started(one, ["A"])
        async with one.transaction() as tx:
            await tx.sagas.save([some_change(record, arm=[Arm("timeout", 1, NOW)])])
        async with one.transaction() as tx:
            (record,) = await tx.sagas.lock([record.saga_id])
            firing = asyncio.create_task(_fired(other, record.saga), name="fire:1")
            await done_or_waiting(firing, one)
            assert firing.done(), "busy sagas wait a round, others do not wait for them"
            assert await firing == []
            await tx.sagas.save([some_change(record, disarm=["timeout"])])
        assert await _fired(other, record.saga) == [], "the reply was first"

    async def a_reply_waits_for_the_timer_and_sees_what_it_did(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        (record,) = await _started(one, ["A"])
        async with one.transaction() as tx:
            await tx.sagas.save([some_change(record, arm=[Arm("timeout", 1, NOW)])])
        async with one.transaction() as tx:
            (fired,) = await tx.sagas.lock_due([(record.saga, 1)], limit=10)
            replying = asyncio.create_task(_locked(other, record.saga_id), name="reply:1")
            await waiting(one)
            await tx.sagas.save([some_change(fired, status="compensated")])
        (late,) = await replying
        assert (late.status, late.version) == ("compensated", 2)

    async def two_timer_workers_fire_a_timer_once(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        records = await _started(one, ["A", "B"])
        arm = [Arm("timeout", 1, NOW)]
        async with one.transaction() as tx:
            await tx.sagas.save([some_change(record, arm=arm) for record in records])
        async with one.transaction() as tx:
            (mine,) = await tx.sagas.lock_due([(records[0].saga, 1)], limit=1)
            theirs = await _fired(other, records[0].saga)
            assert {mine.saga_id, *(each.saga_id for each in theirs)} == {
                record.saga_id for record in records
            }
        assert await _fired(other, records[0].saga) == []

    async def an_early_event_that_was_first_is_drained_by_the_start(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        start = some_start(unique("saga"), "A")
        key = Correlation(start.saga, "", "A")

        async def begin() -> Sequence[Stashed]:
            async with other.transaction() as tx:
                await tx.sagas.lock_keys([key])
                assert await tx.sagas.find([key]) == {}
                await tx.sagas.start([start])
                return await tx.sagas.drain([key])

        async with one.transaction() as tx:
            await tx.sagas.lock_keys([key])
            assert await tx.sagas.find([key]) == {}
            starting = asyncio.create_task(begin(), name="start:1")
            await done_or_waiting(starting, one, for_what="advisory")
            await tx.sagas.stash([some_early(key, some_message(1))])
        assert len(await starting) == 1, "or it waits for a start that was before it"

    async def an_early_event_that_is_second_finds_its_saga(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        start = some_start(unique("saga"), "A")
        key = Correlation(start.saga, "", "A")
        async with one.transaction() as tx:
            await tx.sagas.lock_keys([key])
            await tx.sagas.start([start])
            arriving = asyncio.create_task(_arrives(other, key), name="event:1")
            await done_or_waiting(arriving, one, for_what="advisory")
            assert await tx.sagas.drain([key]) == []
        assert await arriving, "or it is stashed behind the drain, for ever"

    async def batches_that_start_the_same_sagas_take_them_in_one_order(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        saga = unique("saga")

        async def both() -> frozenset[UUID]:
            async with other.transaction() as tx:
                return await tx.sagas.start([some_start(saga, "b"), some_start(saga, "a")])

        async with one.transaction() as tx:
            await tx.sagas.start([some_start(saga, "a")])
            starting = asyncio.create_task(both(), name="start:1")
            await waiting(one)
            await tx.sagas.start([some_start(saga, "b")])  # they would wait in a circle
        assert await starting == frozenset()

    async def without_the_lock_nothing_of_a_batch_is_written(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        records = await _started(one, ["A", "B"])
        changes = [some_change(record) for record in records]

        async def save() -> None:
            async with other.transaction() as tx:
                with pytest.raises(ConcurrencyError, match="EB7030"):
                    await tx.sagas.save(changes)

        async with one.transaction() as tx:
            await tx.sagas.lock([records[1].saga_id])
            await tx.sagas.save([some_change(records[1])])
            saving = asyncio.create_task(save(), name="save:1")
            await waiting(one)
        await saving
        versions = [
            record.version for record in await _locked(one, *(each.saga_id for each in records))
        ]
        assert versions == [0, 1]

    async def a_call_has_one_owner(self, one: PostgresStorage, other: PostgresStorage) -> None:
        (record,) = await _started(one, ["A"])
        async with one.transaction() as tx:
            await tx.sagas.save([some_change(record, calls=[some_call()])])

        async def claim() -> Sequence[Call]:
            async with other.transaction() as tx:
                return await tx.sagas.claim_calls([(record.saga, 1)], owner="b", ttl=SOON, limit=5)

        async with one.transaction() as tx:
            asked = [(record.saga, 1)]
            assert len(await tx.sagas.claim_calls(asked, owner="a", ttl=LONG, limit=5)) == 1
            claiming = asyncio.create_task(claim(), name="claim:1")
            await done_or_waiting(claiming, one)
        assert await claiming == []

    async def a_forward_command_that_waited_for_its_undo_meets_the_tombstone(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        effect = uuid4()
        async with one.transaction() as tx:
            start = EffectStart(effect_id=effect, state="fenced", saga_id=None)
            assert (await tx.sagas.begin_effect([start]))[0].new
            forward = asyncio.create_task(_begun(other, effect, "executing"), name="forward:1")
            await done_or_waiting(forward, one)
        row = await forward
        assert (row.new, row.state) == (False, "fenced")

    async def a_duplicate_that_waited_gets_the_answer_of_the_first(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        effect = uuid4()
        async with one.transaction() as tx:
            start = EffectStart(effect_id=effect, state="executing", saga_id=None)
            assert (await tx.sagas.begin_effect([start]))[0].new
            again = asyncio.create_task(_begun(other, effect, "executing"), name="forward:2")
            await waiting(one)
            await tx.sagas.finish_effect([EffectEnd(effect_id=effect, state="done", reply=b"r")])
        row = await again
        assert (row.new, row.state, row.reply) == (False, "done", b"r")

    async def of_two_undos_the_second_waits_and_finds_it_undone(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        effect = uuid4()
        await _done(one, effect)
        async with one.transaction() as tx:
            start = EffectStart(effect_id=effect, state="fenced", saga_id=None)
            assert (await tx.sagas.begin_effect([start]))[0].state == "done"
            second = asyncio.create_task(_begun(other, effect, "fenced"), name="undo:2")
            await done_or_waiting(second, one)
            await tx.sagas.finish_effect([EffectEnd(effect_id=effect, state="undone")])
        assert (await second).state == "undone", "or it is undone twice"

    async def the_sweep_leaves_a_saga_that_a_late_reply_holds(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        (record,) = await _started(one, ["A"])
        async with one.transaction() as tx:
            await tx.sagas.save([some_change(record, status="completed")])

        async def sweep() -> int:
            async with other.transaction() as tx:
                return await tx.sagas.sweep(older_than=NOW, limit=10)

        async with one.transaction() as tx:
            (late,) = await tx.sagas.lock([record.saga_id])
            sweeping = asyncio.create_task(sweep(), name="sweep:1")
            await done_or_waiting(sweeping, one)
            assert sweeping.done(), "late replies come first"
            assert await sweeping == 0
            await tx.sagas.save([some_change(late)])
        assert await sweep() == 1

    async def the_sweep_takes_no_input_that_its_saga_drains(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        key = Correlation(unique("saga"), "", "A")
        early = Stashed(key=key, message=some_message(1, key="A"), ttl=NOW)
        async with one.transaction() as tx:
            await tx.sagas.stash([early])

        async def sweep() -> int:
            async with other.transaction() as tx:
                return await tx.sagas.sweep(older_than=LONG, limit=10)

        async with one.transaction() as tx:
            assert len(await tx.sagas.drain([key])) == 1
            sweeping: asyncio.Task[Any] = asyncio.create_task(sweep(), name="sweep:1")
            await done_or_waiting(sweeping, one)
            assert sweeping.done()
        assert await sweeping == 0


RACES = [name for name in vars(SagaRaces) if not name.startswith("_")]
