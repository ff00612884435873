"""Saga rows: starts, transitions, timers, calls, early inputs."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from eventbus.errors import ConcurrencyError, ConfigurationError
from eventbus.storage import Storage
from eventbus.storage.sagas import (
    HELD,
    Arm,
    Call,
    Correlation,
    DefinitionRow,
    Fired,
    SagaChange,
    SagaRecord,
)
from eventbus.testing.conformance.saga_samples import (
    some_call,
    some_change,
    some_early,
    some_start,
    some_step,
)
from eventbus.testing.conformance.samples import (
    AFTER_SOON,
    LONG,
    SOON,
    Clock,
    numbers,
    some_message,
    some_messages,
    take,
    unique,
)

DAYS = timedelta(days=30)


class SagaSuite:
    """Subclass it with the fixtures `storage` and `clock`."""

    async def started(self, storage: Storage, saga: str = "", key: str = "A-1") -> SagaRecord:
        start = some_start(saga or unique("saga"), key)
        async with storage.transaction() as tx:
            assert await tx.sagas.start([start]) == {start.saga_id}
        return await self.locked(storage, start.saga_id)

    async def locked(self, storage: Storage, saga_id: UUID) -> SagaRecord:
        async with storage.transaction() as tx:
            (record,) = await tx.sagas.lock([saga_id])
        return record

    async def save(self, storage: Storage, *changes: SagaChange) -> None:
        async with storage.transaction() as tx:
            await tx.sagas.save(changes)

    async def due(self, storage: Storage, saga: str, limit: int = 10) -> list[SagaRecord]:
        async with storage.transaction() as tx:
            return list(await tx.sagas.lock_due([(saga, 1)], limit=limit))

    async def claim(self, storage: Storage, saga: str, limit: int = 10) -> list[Call]:
        async with storage.transaction() as tx:
            sagas = tx.sagas
            return list(await sagas.claim_calls([(saga, 1)], owner="w", ttl=SOON, limit=limit))

    async def test_a_start_stands_as_it_was_given(self, storage: Storage) -> None:
        record = await self.started(storage)
        assert (record.status, record.version, record.definition) == ("running", 0, 1)
        assert (record.data, record.digest, record.key) == (b"{}", b"d", "A-1")
        assert (record.paused, record.intent, record.plan, record.steps) == (False, None, None, [])
        assert record.now.tzinfo is not None

    async def test_a_business_key_that_stands_wins_even_when_its_saga_is_over(
        self, storage: Storage
    ) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, status="completed"))
        again, twin, other = (
            some_start(record.saga),
            some_start(record.saga, "B"),
            some_start(record.saga, "B"),
        )
        async with storage.transaction() as tx:
            new = await tx.sagas.start([again, twin, other])
        assert new == {twin.saga_id}

    async def test_a_saga_is_found_by_its_key_and_by_what_it_was_correlated_with(
        self, storage: Storage
    ) -> None:
        record = await self.started(storage)
        by_name = Correlation(record.saga, "payment", "P-1")
        await self.save(storage, some_change(record, correlations=[by_name]))
        by_key, nobody = Correlation(record.saga, "", "A-1"), Correlation(record.saga, "", "P-1")
        another_type = Correlation(unique("saga"), "", "A-1")
        async with storage.transaction() as tx:
            found = await tx.sagas.find([by_key, by_name, nobody, another_type])
        assert found == {by_key: record.saga_id, by_name: record.saga_id}

    async def test_keys_are_locked_and_looked_up_again(self, storage: Storage) -> None:
        key = Correlation(unique("saga"), "", "A-1")
        async with storage.transaction() as tx:
            await tx.sagas.lock_keys([key])
            assert await tx.sagas.find([key]) == {}

    async def test_records_come_in_the_order_of_their_ids(self, storage: Storage) -> None:
        saga = unique("saga")
        ids = [(await self.started(storage, saga, str(n))).saga_id for n in range(6)]
        async with storage.transaction() as tx:
            records = await tx.sagas.lock([*reversed(ids), uuid4(), ids[0]])
        assert [record.saga_id for record in records] == sorted(ids)

    async def test_a_transition_comes_back_whole(self, storage: Storage) -> None:
        record = await self.started(storage)
        steps = [
            some_step(1),
            some_step(1, phase="undo"),
            replace(some_step(2), error=b"e", attempt=3),
        ]
        change = some_change(
            record,
            status="stuck",
            intent="cancel",
            state_name="charging",
            data=b"\x00\xff",
            data_version=2,
            plan=b"plan",
            error=b"error",
            steps=steps,
        )
        await self.save(storage, change)
        back = await self.locked(storage, record.saga_id)
        assert list(back.steps) == steps
        for name in ("status", "intent", "state_name", "data", "data_version", "plan", "error"):
            assert getattr(back, name) == getattr(change, name)
        assert back.version == 1

    async def test_a_step_is_changed_by_number_and_phase(self, storage: Storage) -> None:
        record = await self.started(storage)
        first = some_step(1)
        await self.save(storage, some_change(record, steps=[first, some_step(2)]))
        done = replace(first, status="succeeded", reply_type="t", reply=b"r", attempt=2)
        record = await self.locked(storage, record.saga_id)
        await self.save(storage, some_change(record, steps=[done]))
        back = await self.locked(storage, record.saga_id)
        assert back.steps[0] == done
        assert len(back.steps) == 2

    async def test_a_change_without_the_lock_is_refused_and_nothing_is_written(
        self, storage: Storage
    ) -> None:
        saga = unique("saga")
        stale, good = await self.started(storage, saga, "a"), await self.started(storage, saga, "b")
        await self.save(storage, some_change(stale))
        late = replace(some_change(stale), version=9, journal=[])
        async with storage.transaction() as tx:
            with pytest.raises(ConcurrencyError, match="EB7030") as caught:
                await tx.sagas.save([some_change(good), late])
        assert str(stale.saga_id) in caught.value.where
        assert str(good.saga_id) not in caught.value.where
        assert (await self.locked(storage, good.saga_id)).version == 0
        assert (await self.locked(storage, stale.saga_id)).version == 1

    async def test_a_known_version_with_another_digest_is_refused(self, storage: Storage) -> None:
        one = DefinitionRow(saga=unique("saga"), version=1, digest=b"a", graph=b"g")
        async with storage.transaction() as tx:
            await tx.sagas.register([one])
            await tx.sagas.register([one, replace(one, version=2, digest=b"b")])
            with pytest.raises(ConfigurationError, match="EB7031"):
                await tx.sagas.register([replace(one, digest=b"b")])

    async def test_a_timer_fires_once_after_its_delay(self, storage: Storage, clock: Clock) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, arm=[Arm("deadline", 7, SOON)]))
        assert await self.due(storage, record.saga) == []
        await clock.advance(AFTER_SOON)
        (fired,) = await self.due(storage, record.saga)
        assert fired.saga_id == record.saga_id
        assert list(fired.fired) == [Fired("deadline", 7)]
        assert await self.due(storage, record.saga) == []

    async def test_a_timer_that_fired_in_vain_fires_again(
        self, storage: Storage, clock: Clock
    ) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, arm=[Arm("deadline", 1, SOON)]))
        await clock.advance(AFTER_SOON)
        with suppress(ZeroDivisionError):
            async with storage.transaction() as tx:
                assert await tx.sagas.lock_due([(record.saga, 1)], limit=1)
                raise ZeroDivisionError
        assert len(await self.due(storage, record.saga)) == 1

    async def test_timers_are_moved_and_disarmed(self, storage: Storage, clock: Clock) -> None:
        record = await self.started(storage)
        arm = [Arm("a", 1, SOON), Arm("b", 1, SOON), Arm("c", 1, SOON)]
        await self.save(storage, some_change(record, arm=arm))
        record = await self.locked(storage, record.saga_id)
        moved = some_change(record, arm=[Arm("b", 2, LONG)], disarm=["a", "never armed"])
        await self.save(storage, moved)
        await clock.advance(AFTER_SOON)
        (fired,) = await self.due(storage, record.saga)
        assert list(fired.fired) == [Fired("c", 1)]

    async def test_only_own_definitions_fire_and_at_most_so_many_sagas(
        self, storage: Storage, clock: Clock
    ) -> None:
        saga = unique("saga")
        for number in range(3):
            record = await self.started(storage, saga, str(number))
            await self.save(storage, some_change(record, arm=[Arm("t", 1, SOON)]))
        newer = await self.started(storage, saga, "newer")
        await self.save(storage, some_change(newer, definition=2, arm=[Arm("t", 1, SOON)]))
        await clock.advance(AFTER_SOON)
        assert len(await self.due(storage, saga, limit=2)) == 2
        assert len(await self.due(storage, saga, limit=2)) == 1
        async with storage.transaction() as tx:
            (fired,) = await tx.sagas.lock_due([(saga, 2)], limit=2)
        assert fired.saga_id == newer.saga_id

    async def test_timers_follow_their_saga_to_another_version(
        self, storage: Storage, clock: Clock
    ) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, arm=[Arm("t", 1, SOON)]))
        record = await self.locked(storage, record.saga_id)
        await self.save(storage, some_change(record, definition=2))
        await clock.advance(AFTER_SOON)
        assert await self.due(storage, record.saga) == []
        async with storage.transaction() as tx:
            (fired,) = await tx.sagas.lock_due([(record.saga, 2)], limit=2)
        assert fired.saga_id == record.saga_id

    async def test_the_next_timer_says_how_long_to_sleep(
        self, storage: Storage, clock: Clock
    ) -> None:
        record = await self.started(storage)
        asked = [(record.saga, 1)]
        async with storage.transaction() as tx:
            assert await tx.sagas.next_due(asked) is None
        await self.save(storage, some_change(record, arm=[Arm("a", 1, LONG), Arm("b", 1, SOON)]))
        async with storage.transaction() as tx:
            wait = await tx.sagas.next_due(asked)
        assert wait is not None
        assert timedelta(0) < wait <= SOON
        await clock.advance(AFTER_SOON)
        async with storage.transaction() as tx:
            assert await tx.sagas.next_due(asked) == timedelta(0)

    async def test_a_pause_freezes_timers_and_keeps_what_was_left(
        self, storage: Storage, clock: Clock
    ) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, arm=[Arm("t", 1, SOON)]))
        record = await self.locked(storage, record.saga_id)
        await self.save(storage, some_change(record, paused=True, arm=[Arm("u", 2, SOON)]))
        await clock.advance(AFTER_SOON)
        async with storage.transaction() as tx:
            assert await tx.sagas.next_due([(record.saga, 1)]) is None
        assert await self.due(storage, record.saga) == []
        record = await self.locked(storage, record.saga_id)
        assert record.paused
        await self.save(storage, some_change(record, paused=False))
        assert await self.due(storage, record.saga) == []
        await clock.advance(AFTER_SOON)
        (fired,) = await self.due(storage, record.saga)
        assert sorted(one.name for one in fired.fired) == ["t", "u"]

    async def test_a_saga_that_ended_has_no_timers(self, storage: Storage, clock: Clock) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, arm=[Arm("t", 1, SOON)]))
        record = await self.locked(storage, record.saga_id)
        await self.save(storage, some_change(record, status="compensated"))
        await clock.advance(AFTER_SOON)
        assert await self.due(storage, record.saga) == []
        async with storage.transaction() as tx:
            assert await tx.sagas.next_due([(record.saga, 1)]) is None

    async def test_a_call_is_claimed_by_one_and_taken_over_when_its_lease_ended(
        self, storage: Storage, clock: Clock
    ) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, calls=[some_call()]))
        (first,) = await self.claim(storage, record.saga)
        assert (first.saga_id, first.input, first.attempt) == (record.saga_id, b"in", 1)
        assert await self.claim(storage, record.saga) == []
        await clock.advance(AFTER_SOON)
        (second,) = await self.claim(storage, record.saga)
        assert second.fence > first.fence
        assert second.attempt == 2
        async with storage.transaction() as tx:
            sagas = tx.sagas
            assert await sagas.renew_calls([first], ttl=SOON) == []
            assert await sagas.finish_calls([first]) == []
            assert await sagas.finish_calls([second]) == [second]
            assert await sagas.finish_calls([second]) == []

    async def test_a_call_is_kept_by_renewing_and_given_back_at_once(
        self, storage: Storage, clock: Clock
    ) -> None:
        record = await self.started(storage)
        await self.save(storage, some_change(record, calls=[some_call(), some_call(), some_call()]))
        assert len(await self.claim(storage, record.saga, limit=2)) == 2
        left = await self.claim(storage, record.saga)
        assert len(left) == 1
        call = left[0]
        async with storage.transaction() as tx:
            assert await tx.sagas.renew_calls([call], ttl=LONG) == [call]
        await clock.advance(AFTER_SOON)
        taken = await self.claim(storage, record.saga)
        assert call.effect_id not in {one.effect_id for one in taken}
        async with storage.transaction() as tx:
            await tx.sagas.renew_calls([call], ttl=timedelta(0))
        (back,) = await self.claim(storage, record.saga)
        assert back.effect_id == call.effect_id

    async def test_early_inputs_are_drained_once_in_the_order_of_arrival(
        self, storage: Storage
    ) -> None:
        saga = unique("saga")
        here, there = Correlation(saga, "", "A"), Correlation(saga, "pay", "A")
        messages = some_messages(4, key="A")
        async with storage.transaction() as tx:
            for number, message in enumerate(messages):
                await tx.sagas.stash([some_early((here, there)[number % 2], message)])
            await tx.sagas.stash([some_early(here, messages[0])])
        async with storage.transaction() as tx:
            sagas = tx.sagas
            drained = await sagas.drain([there, here])
            assert await sagas.drain([there, here]) == []
        assert [one.message for one in drained] == messages
        assert [one.key for one in drained] == [here, there, here, there]
        assert all(one.row > 0 for one in drained)

    async def test_an_expired_input_becomes_a_dead_letter_that_holds_no_other(
        self, storage: Storage, clock: Clock
    ) -> None:
        saga = unique("saga")
        key = Correlation(saga, "", "A")
        lost, kept = some_message(1, key="A"), some_message(2, key="A")
        async with storage.transaction() as tx:
            early = [some_early(key, lost), replace(some_early(key, kept), ttl=None)]
            await tx.sagas.stash(early)
        await clock.advance(AFTER_SOON)
        async with storage.transaction() as tx:
            assert await tx.sagas.sweep(older_than=DAYS, limit=10) == 1
            assert [one.message for one in await tx.sagas.drain([key])] == [kept]
            assert (await tx.parking.crowd(group=saga, above=0)).messages == 1
            assert "A" not in await tx.parking.keys(group=saga, limit=10)
        lease = await take(storage, f"parked/{saga}")
        async with storage.transaction() as tx:
            due = await tx.parking.due(lease, group=saga, limit=10)
        assert numbers(due) == [], "a dead letter waits for a person"

    async def test_a_sweep_forgets_what_finished_long_ago_and_frees_its_key(
        self, storage: Storage, clock: Clock
    ) -> None:
        if not clock.jumps:
            pytest.skip("capability: a clock that jumps 30 days")
        saga = unique("saga")
        over, open_ = await self.started(storage, saga, "a"), await self.started(storage, saga, "b")
        named = Correlation(saga, "payment", "P")
        done = some_change(over, status="completed", steps=[some_step(1)], correlations=[named])
        await self.save(storage, done)
        held = [Correlation(saga, HELD, str(one.saga_id)) for one in (over, open_)]
        waits = [some_early(key, some_message(n, key="x")) for n, key in enumerate(held)]
        async with storage.transaction() as tx:
            await tx.sagas.stash([replace(one, ttl=None) for one in waits])
        await clock.advance(DAYS.total_seconds() - 1)
        async with storage.transaction() as tx:
            assert await tx.sagas.sweep(older_than=DAYS, limit=10) == 0
        await clock.advance(2)
        async with storage.transaction() as tx:
            sagas = tx.sagas
            assert await sagas.sweep(older_than=DAYS, limit=10) == 1
            assert await sagas.find([named, Correlation(saga, "", "a")]) == {}
            assert [one.saga_id for one in await sagas.lock([open_.saga_id])] == [open_.saga_id]
            assert [one.key for one in await sagas.drain(held)] == held[1:]
        again = some_start(saga, "a")
        async with storage.transaction() as tx:
            assert await tx.sagas.start([again]) == {again.saga_id}

    async def test_open_sagas_are_counted_by_version_state_step_and_status(
        self, storage: Storage
    ) -> None:
        saga, digest = unique("saga"), b"\x01" * 32
        starts = [some_start(saga, f"A-{number}") for number in range(4)]
        first = starts[0]
        graph = b'{"steps": []}'
        row = DefinitionRow(saga=saga, version=first.definition, digest=first.digest, graph=graph)
        async with storage.transaction() as tx:
            await tx.sagas.register([row])
            await tx.sagas.start(starts)
            records = await tx.sagas.lock([one.saga_id for one in starts])
            states = ("charging", "charging", None, "charging")
            at = (
                some_step(0),
                some_step(0),
                some_step(0),
                replace(some_step(0), status="succeeded"),
            )
            await tx.sagas.save(
                [
                    replace(some_change(one, steps=[step]), state_name=state, digest=digest)
                    if number == 2
                    else replace(some_change(one, steps=[step]), state_name=state)
                    for number, (one, state, step) in enumerate(
                        zip(records, states, at, strict=True)
                    )
                ]
            )
        async with storage.transaction() as tx:
            found = [one for one in await tx.sagas.in_flight() if one.saga == saga]
        name = some_step(0).name
        assert {(one.state, one.step, one.graph, one.count) for one in found} == {
            ("charging", name, graph, 2),
            ("charging", None, graph, 1),
            (None, name, None, 1),  # its digest is not the registered one
        }
