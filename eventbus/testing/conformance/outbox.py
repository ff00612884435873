"""What waits for the broker: in order per key, fenced, never lost."""
# ruff: noqa: D102, S101, S608 - a suite: names are sentences, it asserts; seeded dice; own tables

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from eventbus.message import Message
from eventbus.storage import Storage
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing, partition_of
from eventbus.testing.conformance.samples import (
    AFTER_SOON,
    SOON,
    Clock,
    at_once,
    make_table,
    numbers,
    some_message,
    some_messages,
    take_over,
    take_partitions,
    unique,
)


class OutboxSuite:
    """Subclass it with the fixtures `storage`, entered and with an empty outbox, and `clock`."""

    async def test_rows_leave_in_the_order_in_which_they_were_added(self, storage: Storage) -> None:
        first, second, third, fourth = some_messages(4, key=unique("key"))
        async with storage.transaction() as tx:
            await tx.outbox.add([first, second])
            await tx.outbox.add([third])
        await _write(storage, fourth)
        rows = await _read(storage, await take_partitions(storage))
        assert [row.message for row in rows] == [first, second, third, fourth]
        assert [row.row for row in rows] == sorted(row.row for row in rows)
        assert {row.partition for row in rows} == {partition_of(str(first.key))}
        assert {row.attempts for row in rows} == {0}

    async def test_rows_are_written_when_the_block_is_left(self, storage: Storage) -> None:
        leases = await take_partitions(storage)
        async with storage.transaction() as tx:
            await tx.outbox.add([some_message(1)])
            assert list(await tx.outbox.read(leases, limit=10)) == []
        assert numbers(await _read(storage, leases)) == [1]

    async def test_rows_follow_the_order_in_which_writers_took_turns(
        self, storage: Storage
    ) -> None:
        """Each adds first and meets the others on a row after it: rows come last, so ids fit."""
        key, turns = unique("key"), await make_table(storage, "n bigint, id text")

        async def write() -> None:
            for _ in range(5):
                message = some_message(key=key)
                async with storage.transaction() as tx:
                    await tx.outbox.add([message])
                    await tx.sql.execute(f"UPDATE {turns} SET n = n + 1 WHERE id = 'counter'")
                    await tx.sql.execute(
                        f"INSERT INTO {turns} (n, id) SELECT n, $1 FROM {turns}"
                        " WHERE id = 'counter'",
                        message.id,
                    )

        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {turns} (n, id) VALUES (0, 'counter')")
        await at_once(*(write() for _ in range(6)))
        async with storage.transaction() as tx:
            taken = await tx.sql.fetch(
                f"SELECT id FROM {turns} WHERE id <> 'counter' ORDER BY n, id"
            )
        rows = await _read(storage, await take_partitions(storage))
        assert [row.message.id for row in rows] == [turn["id"] for turn in taken]

    @pytest.mark.parametrize("body", [b"", b"\x00\xff{}", bytes(range(256)) * 4096])
    async def test_a_message_comes_back_byte_for_byte(self, storage: Storage, body: bytes) -> None:
        sent = Message(
            id="foreign id / 7",
            type="shop.order-placed",
            source="https://example.org/läden?a=1",
            topic="shop.eu",
            payload=body,
            key="mandant/Zürich-東京",
            headers={"tenant": "mandant", "subject": "Ärger 🚚", "empty": "", "native:x": "a\nb"},
        )
        await _write(storage, sent)
        (row,) = await _read(storage, await take_partitions(storage))
        assert row.message == sent
        assert type(row.message.payload) is bytes
        assert dict(row.message.headers) == dict(sent.headers)
        assert row.message.identity == sent.identity

    async def test_a_message_without_key_and_headers_comes_back(self, storage: Storage) -> None:
        sent = some_message(1)
        await _write(storage, sent)
        (row,) = await _read(storage, await take_partitions(storage))
        assert row.message == sent
        assert row.message.key is None

    async def test_a_rolled_back_savepoint_leaves_no_row_and_keeps_the_order(
        self, storage: Storage
    ) -> None:
        first, undone, last = some_messages(3, key=unique("key"))
        async with storage.transaction() as tx:
            await tx.outbox.add([first])
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.outbox.add([undone])
                    await tx.outbox.add([undone], delay=SOON)
                    raise LookupError
            async with tx.savepoint():
                await tx.outbox.add([last])
        assert numbers(await _read(storage, await take_partitions(storage))) == [0, 2]

    async def test_a_transaction_of_nothing_but_messages_is_written(self, storage: Storage) -> None:
        async with storage.transaction() as tx:
            await tx.outbox.add([])
            await tx.outbox.add(some_messages(50, key=unique("key")))
        rows = await _read(storage, await take_partitions(storage))
        assert numbers(rows) == list(range(50))

    async def test_only_leased_partitions_are_read(self, storage: Storage) -> None:
        message = some_message(key=unique("key"))
        await _write(storage, message)
        leases = await take_partitions(storage)
        mine, others = _split(leases, partition_of(str(message.key)))
        assert await _read(storage, others) == []
        assert await _read(storage, []) == []
        assert len(await _read(storage, mine)) == 1

    async def test_a_limit_cuts_behind_and_what_is_settled_makes_room(
        self, storage: Storage
    ) -> None:
        await _write(storage, *some_messages(7, key=unique("key")))
        leases = await take_partitions(storage)
        seen: list[int] = []
        while rows := await _read(storage, leases, limit=3):
            assert len(rows) <= 3
            seen += numbers(rows)
            assert await _settle(storage, leases, rows) == len(rows)
        assert seen == list(range(7))

    async def test_what_was_not_settled_is_read_again_from_the_first_row(
        self, storage: Storage
    ) -> None:
        await _write(storage, *some_messages(3, key=unique("key")))
        leases = await take_partitions(storage)
        first, second, third = await _read(storage, leases)
        assert await _read(storage, leases) == [first, second, third]
        assert await _settle(storage, leases, [second]) == 1
        assert await _read(storage, leases) == [first, third]
        assert await _settle(storage, leases, [first, second, third]) == 2
        assert await _read(storage, leases) == []

    async def test_settling_under_a_lost_lease_keeps_the_rows(self, storage: Storage) -> None:
        message = some_message(key=unique("key"))
        await _write(storage, message)
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        (lost,), _ = _split(leases, rows[0].partition)
        taken = await take_over(storage, lost)
        assert await _settle(storage, leases, rows) == 0
        assert await _read(storage, [taken]) == rows
        assert await _settle(storage, [taken], rows) == 1

    async def test_settling_needs_the_lease_of_the_rows_partition(self, storage: Storage) -> None:
        await _write(storage, some_message(key=unique("key")))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        _, others = _split(leases, rows[0].partition)
        assert await _settle(storage, others, rows) == 0
        assert await _settle(storage, leases, rows) == 1

    async def test_deferring_under_a_lost_lease_changes_nothing(self, storage: Storage) -> None:
        await _write(storage, some_message(key=unique("key")))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        (lost,), _ = _split(leases, rows[0].partition)
        taken = await take_over(storage, lost)
        assert await _defer(storage, leases, rows, delay=None) == 0
        assert await _read(storage, [taken]) == rows

    async def test_what_is_on_its_way_need_not_be_read_again(self, storage: Storage) -> None:
        await _write(storage, *some_messages(4, key="k"))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        async with storage.transaction() as tx:
            found = await tx.outbox.read(leases, limit=10, after=rows[1].row)
        assert numbers(found) == [2, 3]

    async def test_rows_are_left_out_by_their_numbers(self, storage: Storage) -> None:
        await _write(storage, *some_messages(4, key="k"))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        async with storage.transaction() as tx:
            besides = {rows[0].row, rows[2].row}
            found = await tx.outbox.read(leases, limit=2, besides=besides)
        assert numbers(found) == [1, 3]

    async def test_with_a_row_held_back_everything_is_read_again(
        self, storage: Storage, clock: Clock
    ) -> None:
        """Or what stands behind it would be passed by what came later."""
        await _write(storage, *some_messages(4, key="k"))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        await _defer(storage, leases, rows[:1], delay=SOON)
        await clock.advance(AFTER_SOON)
        async with storage.transaction() as tx:
            found = await tx.outbox.read(leases, limit=10, after=rows[3].row)
        assert numbers(found) == [0, 1, 2, 3]

    async def test_a_row_knows_its_age(self, storage: Storage, clock: Clock) -> None:
        await _write(storage, some_message(1))
        leases = await take_partitions(storage)
        young = (await _read(storage, leases))[0].age
        await clock.advance(AFTER_SOON)
        old = (await _read(storage, leases))[0].age
        assert timedelta() <= young < old

    async def test_a_deferred_row_holds_its_key_and_no_other(
        self, storage: Storage, clock: Clock
    ) -> None:
        key, other = _keys_of_one_partition()
        await _write(storage, some_message(1, key=key), some_message(2, key=key))
        await _write(storage, some_message(3, key=other))
        leases = await take_partitions(storage)
        first = (await _read(storage, leases))[:1]
        assert await _defer(storage, leases, first, delay=SOON) == 1
        await _write(storage, some_message(4, key=key))
        assert numbers(await _read(storage, leases)) == [3]
        await clock.advance(AFTER_SOON)
        rows = await _read(storage, leases)
        assert numbers(row for row in rows if row.message.key == key) == [1, 2, 4]
        assert [row.attempts for row in rows if row.message.key == key] == [1, 0, 0]
        assert [row.row for row in rows][:1] == [first[0].row]

    async def test_a_row_deferred_in_the_middle_lets_pass_what_is_before_it(
        self, storage: Storage
    ) -> None:
        await _write(storage, *some_messages(3, key=unique("key")))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        await _defer(storage, leases, rows[1:2], delay=SOON)
        assert numbers(await _read(storage, leases)) == [0]

    async def test_a_failed_row_stays_and_its_key_waits(
        self, storage: Storage, clock: Clock
    ) -> None:
        key, other = _keys_of_one_partition()
        await _write(storage, some_message(1, key=key), some_message(2, key=key))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        assert await _defer(storage, leases, rows[:1], delay=None) == 1
        await clock.advance(1)
        if clock.jumps:
            await clock.advance(timedelta(days=400).total_seconds())
            leases = await take_partitions(storage)
        await _write(storage, some_message(3, key=other))
        assert numbers(await _read(storage, leases)) == [3]

    async def test_rows_without_a_key_hold_nothing(self, storage: Storage) -> None:
        await _write(storage, *some_messages(200))
        leases = await take_partitions(storage)
        rows = await _read(storage, leases)
        assert await _defer(storage, leases, rows[:100], delay=None) == 100
        assert sorted(numbers(await _read(storage, leases))) == sorted(numbers(rows[100:]))

    async def test_a_delayed_row_comes_when_it_is_promoted_and_holds_nothing_before(
        self, storage: Storage, clock: Clock
    ) -> None:
        key = unique("key")
        await _write(storage, some_message(1, key=key), delay=SOON)
        await _write(storage, some_message(2, key=key))
        leases = await take_partitions(storage)
        assert await _promote(storage, leases) == 0
        assert numbers(await _read(storage, leases)) == [2]
        await clock.advance(AFTER_SOON)
        assert numbers(await _read(storage, leases)) == [2]
        assert await _promote(storage, leases) == 1
        assert numbers(await _read(storage, leases)) == [2, 1]
        assert await _promote(storage, leases) == 0

    async def test_delayed_rows_come_back_whole_and_in_the_order_in_which_they_are_due(
        self, storage: Storage, clock: Clock
    ) -> None:
        key = unique("key")
        late, early = some_message(1, key=key), some_message(2, key=key)
        await _write(storage, late, delay=SOON)
        await _write(storage, early, some_message(3, key=key), delay=SOON / 2)
        leases = await take_partitions(storage)
        await clock.advance(AFTER_SOON)
        assert await _promote(storage, leases) == 3
        rows = await _read(storage, leases)
        assert numbers(rows) == [2, 3, 1]
        assert [rows[0].message, rows[2].message] == [early, late]

    async def test_only_the_owner_promotes(self, storage: Storage, clock: Clock) -> None:
        message = some_message(1, key=unique("key"))
        await _write(storage, message, delay=SOON)
        await clock.advance(AFTER_SOON)
        (lost,), others = _split(await take_partitions(storage), partition_of(str(message.key)))
        taken = await take_over(storage, lost)
        assert await _promote(storage, [lost, *others]) == 0
        assert await _promote(storage, []) == 0
        assert await _promote(storage, [taken]) == 1


def _split(leases: Collection[Lease], partition: int) -> tuple[list[Lease], list[Lease]]:
    name = f"outbox/{partition:02d}"
    return [x for x in leases if x.name == name], [x for x in leases if x.name != name]


def _keys_of_one_partition() -> tuple[str, str]:
    key = unique("key")
    while partition_of(other := unique("key")) != partition_of(key):
        pass
    return key, other


async def _write(storage: Storage, *messages: Message, delay: timedelta | None = None) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.add(messages, delay=delay)


async def _read(storage: Storage, leases: Collection[Lease], *, limit: int = 500) -> list[Outgoing]:
    async with storage.transaction() as tx:
        return list(await tx.outbox.read(leases, limit=limit))


async def _settle(storage: Storage, leases: Collection[Lease], rows: Sequence[Outgoing]) -> int:
    async with storage.transaction() as tx:
        return await tx.outbox.settle(leases, rows)


async def _defer(
    storage: Storage,
    leases: Collection[Lease],
    rows: Sequence[Outgoing],
    *,
    delay: timedelta | None,
) -> int:
    async with storage.transaction() as tx:
        return await tx.outbox.defer(leases, rows, delay=delay, error="refused")


async def _promote(storage: Storage, leases: Collection[Lease]) -> int:
    async with storage.transaction() as tx:
        return await tx.outbox.promote(leases, limit=100)
