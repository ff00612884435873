"""The event log on PostgreSQL: what only several connections at once can show."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from eventbus.errors import ConcurrencyError, StorageError, StreamClosedError
from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.storage.events import (
    Append,
    Appended,
    Expected,
    Filter,
    Position,
    RecordedMessage,
    Snapshot,
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


async def test_what_was_appended_comes_back_as_it_was(storage: PostgresStorage) -> None:
    ours = Message(
        id="foreign/1",
        type="shop.order-placed",
        source="elsewhere",
        topic="shop",
        payload=b"1",
        key="A-1",
        headers={"correlationid": "c", "dataschema": "urn:eventbus:schema:shop.order-placed:3"},
    )
    appended = await storage.append(some_append("order-1", [ours, some_message(2)], "absent"))
    assert (appended.version, appended.repeated) == (2, False)
    first, second = await stream(storage, "order-1")
    assert (first.message, first.stream, first.version) == (ours, "order-1", 1)
    assert (first.schema_version, second.schema_version) == (3, 1)
    assert second.position == appended.position
    assert await feed(storage) == [first, second]


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


@pytest.mark.parametrize("expected", ["any", "present", "absent", 1])
async def test_the_same_ids_again_are_a_retry(storage: PostgresStorage, expected: Expected) -> None:
    if expected != "absent":
        await storage.append(some_append("order-1", [some_message(0)]))
    again = some_append("order-1", some_messages(2), expected, publish=[some_message(9)])
    first = await storage.append(again)
    await storage.append(some_append("order-1", [some_message(5)]))
    assert await storage.append(again) == Appended(
        version=first.version, position=first.position, repeated=True
    )
    events = await stream(storage, "order-1")
    assert [one.version for one in events] == list(range(1, len(events) + 1))
    assert len(events) == first.version + 1
    async with storage.transaction() as tx:
        assert (await tx.sql.fetch(f"SELECT count(*) AS n FROM {storage.config.schema}.outbox"))[0][
            "n"
        ] == 1
    assert (await storage.append(some_append("order-1", [some_message(6)]))).version == len(
        events
    ) + 1


async def test_as_many_other_events_are_no_retry(storage: PostgresStorage) -> None:
    await storage.append(some_append("order-1", some_messages(2), "absent"))
    with pytest.raises(ConcurrencyError, match="EB5003"):
        await storage.append(some_append("order-1", some_messages(2), "absent"))


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


async def test_a_closed_stream_takes_nothing(storage: PostgresStorage) -> None:
    await storage.append(some_append("order-1", [some_message(0)]))
    async with storage.transaction() as tx:
        await tx.events.close("order-1", state="archived")
    for expected in ("any", "present", "absent", 1):
        with pytest.raises(StreamClosedError, match="EB5014"):
            await storage.append(some_append("order-1", [some_message(1)], expected))
    assert numbers([one.message for one in await stream(storage, "order-1")]) == [0]
    async with storage.transaction() as tx:
        await tx.events.close("order-1", state="tombstoned")
    assert await stream(storage, "order-1") == []


async def test_arguments_that_no_stream_can_take_are_refused(storage: PostgresStorage) -> None:
    theirs = Message(
        id="1", type="t", source="s", topic="t", payload=b"", headers={"tenant": "theirs"}
    )
    for append in (
        some_append("order-1", []),
        some_append("", [some_message(0)]),
        some_append("order-1", [some_message(0)], -1),
        some_append("order-1", [some_message(0), theirs]),
    ):
        with pytest.raises(StorageError, match="EB5015"):
            await storage.append(append)


async def test_a_load_is_snapshot_and_tail(storage: PostgresStorage) -> None:
    await storage.append(some_append("order-1", some_messages(4)))
    events = await stream(storage, "order-1")
    older, newer = (
        Snapshot(
            kind="order", schema_hash=b"h", version=version, position=events[version - 1].position,
            state=str(version).encode(),
        )
        for version in (2, 3)
    )  # fmt: skip
    async with storage.transaction() as tx:
        await tx.events.save_snapshot("order-1", newer)
        await tx.events.save_snapshot("order-1", older)
        loaded = await tx.events.load("order-1", kind="order", schema_hash=b"h")
        foreign = await tx.events.load("order-1", kind="order", schema_hash=b"other")
        absent = await tx.events.load("order-2", kind="order", schema_hash=b"h")
        await tx.events.truncate("order-1", before=3)
        kept = await tx.events.load("order-1", kind="other", schema_hash=b"h")
    assert (loaded.snapshot, list(loaded.tail), loaded.version) == (newer, [events[3]], 4)
    assert (foreign.snapshot, list(foreign.tail)) == (None, list(events))
    assert (absent.version, list(absent.tail)) == (0, [])
    assert (list(kept.tail), kept.version) == (list(events[2:]), 4)


async def test_a_filter_that_lets_nothing_through_moves_on(storage: PostgresStorage) -> None:
    appended = await storage.append(some_append("order-1", some_messages(3)))
    await storage.append(some_append("cart-1", [some_message(7)]))
    async with storage.transaction() as tx:
        nothing = await tx.events.read_all(
            after=START, limit=10, upto=appended.position, only=Filter(types=("other",))
        )
        carts = await tx.events.read_all(after=START, limit=10, only=Filter(category="cart"))
    assert (list(nothing.events), nothing.read_to) == ([], appended.position)
    assert numbers([one.message for one in carts.events]) == [7]


async def test_a_commit_of_events_is_heard_in_another_process(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]", schema: str
) -> None:
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await admin.add_listener(f"{schema}_events", hear)
    await storage.append(some_append("order-1", [some_message(0)]))
    async with asyncio.timeout(10):
        await heard.wait()
