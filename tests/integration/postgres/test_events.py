"""The event log on PostgreSQL: what only several connections at once can show."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import asyncpg
import pytest

from eventbus.errors import ConcurrencyError
from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.storage.events import (
    Append,
    Expected,
    Position,
    RecordedMessage,
)
from eventbus.testing.conformance.samples import numbers, some_message, some_messages, unique
from tests.conformance.postgres import entered
from tests.integration.postgres.races import done_or_waiting

START = Position(0)


@pytest.fixture
async def other(storage: PostgresStorage) -> AsyncIterator[PostgresStorage]:
    """Another process on the same schema."""
    async with PostgresStorage(storage.config) as other:
        yield other


def some_append(
    stream: str, messages: Sequence[Message], expected: Expected = "any", **more: Sequence[Message]
) -> Append:
    return Append(stream=stream, messages=messages, expected=expected, **more)


async def feed(storage: PostgresStorage, after: Position = START) -> list[RecordedMessage]:
    """All that can be read of the feed now."""
    found: list[RecordedMessage] = []
    while True:
        async with storage.transaction() as tx:
            page = await tx.events.read_all(after=after, limit=100)
        found += page.events
        if page.read_to == after:
            return found
        after = page.read_to


def perhaps_fail(chance: random.Random) -> None:
    if chance.random() < 0.3:
        raise LookupError


async def stream(storage: PostgresStorage, name: str) -> Sequence[RecordedMessage]:
    async with storage.transaction() as tx:
        return await tx.events.read_stream(name)


async def test_a_row_tells_what_stands_there(storage: PostgresStorage) -> None:
    messages = some_messages(2)
    await storage.append(some_append("order-1", messages, "absent"))
    first, second = await stream(storage, "order-1")
    async with storage.pools.connecting() as connection:
        times = await connection.fetch(
            f"SELECT recorded_at FROM {storage.config.schema}.events ORDER BY position"
        )
    assert [first.recorded_at, second.recorded_at] == [row["recorded_at"] for row in times]
    assert [first.message, second.message] == messages
    assert (first.type, first.payload) == (messages[0].type, messages[0].payload)
    assert (first.version, second.version, first.stream) == (1, 2, "order-1")
    assert (first.schema_version, first.tenant) == (1, "")
    again = await feed(storage)
    assert again == [first, second] != [second, first]
    assert {*again, first, second} == {first, second}
    assert repr(second) == f"<{second.type} order-1@2 position {second.position}>"


async def test_a_slow_writer_holds_the_bound(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    async with storage.transaction() as tx:
        slow = await tx.events.append(some_append("order-1", [some_message(1)]))
        quick = await other.append(some_append("order-2", [some_message(2)]))
        held = await other.read_bound()
        assert held.bound < slow.position < quick.position <= held.head
        assert await feed(other) == []
    assert numbers([one.message for one in await feed(other)]) == [1, 2]
    free = await other.read_bound()
    assert free.bound == free.head


async def test_nothing_appears_behind_a_reader(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    kept: list[str] = []
    working = 8

    async def write(number: int) -> None:
        nonlocal working
        chance = random.Random(number)
        for _ in range(25):
            messages = some_messages(chance.randint(1, 3))
            try:
                async with storage.transaction() as tx:
                    name = f"order-{chance.randint(0, 5)}"
                    await tx.events.append(some_append(name, messages))
                    slowly = "SELECT pg_sleep(CAST($1 AS double precision))"
                    await tx.sql.fetch(slowly, chance.random() / 200)
                    perhaps_fail(chance)
            except LookupError:
                continue
            kept.extend(message.id for message in messages)
        working -= 1

    async def read() -> list[RecordedMessage]:
        found: list[RecordedMessage] = []
        after, last = START, False
        while True:
            async with other.transaction() as tx:
                page = await tx.events.read_all(after=after, limit=7)
            found += page.events
            if page.read_to == after and last:
                return found
            last = working == 0
            after = page.read_to

    reader = asyncio.create_task(read(), name="read:1")
    await asyncio.gather(*(write(number) for number in range(8)))
    found = await reader
    assert sorted(one.message.id for one in found) == sorted(kept)
    assert found == await feed(storage)  # in the order in which they stand there now
    for name in {one.stream for one in found}:
        versions = [one.version for one in found if one.stream == name]
        assert versions == list(range(1, len(versions) + 1))


async def test_a_transaction_registers_once(storage: PostgresStorage, schema: str) -> None:
    async with storage.transaction() as tx:
        for number in range(20):
            await tx.events.append(some_append(f"order-{number}", [some_message(number)]))
        rows = await tx.sql.fetch(
            "SELECT count(*) AS n FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
    assert rows[0]["n"] == 1


async def test_a_savepoint_rolled_back_registers_again(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    async with storage.transaction() as tx:
        with pytest.raises(LookupError):
            async with tx.savepoint():
                await tx.events.append(some_append("order-1", [some_message(1)]))
                raise LookupError
        kept = await tx.events.append(some_append("order-1", [some_message(2)], "absent"))
        await other.append(some_append("order-2", [some_message(3)]))
        assert (await other.read_bound()).bound < kept.position
    assert numbers([one.message for one in await feed(other)]) == [2, 3]


async def test_who_loses_gets_the_events_of_the_winner_and_may_go_on(
    storage: PostgresStorage, other: PostgresStorage
) -> None:
    await storage.append(some_append("order-1", [some_message(0)], "absent"))
    async with storage.transaction() as loser:
        async with other.transaction() as winner:
            await winner.events.append(some_append("order-1", [some_message(1)], 1))
            late = asyncio.create_task(
                loser.events.append(some_append("order-1", [some_message(2)], 1), conflicting=True),
                name="append:1",
            )
            await done_or_waiting(late, other)
            assert not late.done()
        with pytest.raises(ConcurrencyError, match="EB5003") as caught:
            await late
        assert caught.value.version == 2
        assert numbers([one.message for one in caught.value.conflicting]) == [1]
        await loser.events.append(some_append("order-1", [some_message(2)], 2))
    assert numbers([one.message for one in await stream(storage, "order-1")]) == [0, 1, 2]


async def test_two_stores_of_one_database_hold_no_bound_of_each_other(
    storage: PostgresStorage, server: str
) -> None:
    async with entered(server, schema=unique("bus")) as neighbour:
        for number in range(5):
            await storage.append(some_append("order-1", [some_message(number)]))
        async with neighbour.transaction() as tx:
            await tx.events.append(some_append("order-1", [some_message(0)]))
            assert (await neighbour.read_bound()).bound == 1
            bound = await storage.read_bound()
            assert bound.bound == bound.head == 6


async def test_positions_beyond_the_first_partition_are_taken(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]", schema: str
) -> None:
    await storage.append(some_append("order-1", [some_message(0)]))
    await admin.execute(f"SELECT setval('{schema}.position_seq', 49999999)")
    await storage.append(some_append("order-1", [some_message(1)], 1))
    assert numbers([one.message for one in await stream(storage, "order-1")]) == [0, 1]
    with pytest.raises(ConcurrencyError):
        await storage.append(some_append("order-1", [some_message(1)], 1))


async def test_the_next_partition_is_made_ahead_and_takes_what_comes(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]", schema: str
) -> None:
    async def partitions() -> list[str]:
        rows = await admin.fetch(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            f" WHERE i.inhparent = '{schema}.events'::regclass ORDER BY 1"
        )
        return [row["relname"] for row in rows]

    async def prune() -> None:
        await storage.prune(inbox=timedelta(days=7), limit=10)

    await admin.execute(f"SELECT setval('{schema}.position_seq', 39999998)")
    await prune()
    assert await partitions() == ["events_0", "events_other"]
    await storage.append(some_append("order-1", some_messages(2)))
    await prune()
    await prune()
    assert await partitions() == ["events_0", "events_1", "events_other"]
    await admin.execute(f"SELECT setval('{schema}.position_seq', 49999998)")
    await storage.append(some_append("order-1", some_messages(3), 2))
    counts = await admin.fetch(
        f"SELECT tableoid::regclass::text AS part, count(*) AS n FROM {schema}.events GROUP BY 1"
    )
    assert {row["part"].rpartition(".")[2]: row["n"] for row in counts} == {
        "events_0": 3,
        "events_1": 2,
    }
    assert [each.version for each in await stream(storage, "order-1")] == [1, 2, 3, 4, 5]
    with pytest.raises(asyncpg.UniqueViolationError, match="events_1_stream"):
        await admin.execute(
            f"UPDATE {schema}.events SET version = 4 WHERE stream = 'order-1' AND version = 5"
        )


async def test_a_commit_of_events_is_heard_in_another_process(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]", schema: str
) -> None:
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await admin.add_listener(f"{schema}_events", hear)
    await storage.append(some_append("order-1", [some_message(0)]))
    async with asyncio.timeout(30):
        await heard.wait()
