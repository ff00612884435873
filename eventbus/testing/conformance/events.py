"""Streams: expected versions, retries, snapshots, the life of a stream."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest

from eventbus.errors import ConcurrencyError, StorageError, StreamClosedError
from eventbus.message import Message
from eventbus.storage import Storage
from eventbus.storage.events import (
    Append,
    Appended,
    Expected,
    Loaded,
    Position,
    RecordedMessage,
    Snapshot,
    StreamHead,
)
from eventbus.testing.conformance.samples import (
    numbers,
    some_message,
    some_messages,
    take_partitions,
    unique,
)

ALL: tuple[Expected, ...] = ("any", "absent", "present", 0, 1, 2)
HASH = b"\x00schema"


def to(
    stream: str,
    messages: Sequence[Message],
    expected: Expected = "any",
    *,
    publish: Sequence[Message] = (),
) -> Append:
    """An append."""
    return Append(stream=stream, messages=messages, expected=expected, publish=publish)


class EventSuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    async def test_what_was_appended_comes_back_as_it_was(self, storage: Storage) -> None:
        name = unique("order")
        ours = Message(
            id="foreign/1",
            type="shop.order-placed",
            source="elsewhere",
            topic="shop",
            payload=b"\x00\xff",
            key="A-1",
            headers={"correlationid": "c", "dataschema": "urn:eventbus:schema:shop.placed:3"},
        )
        appended = await storage.append(to(name, [ours, some_message(2)], "absent"))
        assert (appended.version, appended.repeated) == (2, False)
        first, second = await stream(storage, name)
        assert (first.message, first.stream, first.version) == (ours, name, 1)
        assert (first.schema_version, second.schema_version) == (3, 1)
        assert first.position < second.position == appended.position
        assert first.recorded_at.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("expected", ALL)
    async def test_a_stream_that_is_absent(self, storage: Storage, expected: Expected) -> None:
        name = unique("order")
        if expected in {"any", "absent", 0}:
            assert (await storage.append(to(name, [some_message(1)], expected))).version == 1
        else:
            with pytest.raises(ConcurrencyError, match="EB5003") as caught:
                await storage.append(to(name, [some_message(1)], expected))
            assert caught.value.version == 0
            assert await stream(storage, name) == []

    @pytest.mark.parametrize("expected", ALL)
    async def test_a_stream_that_is_present(self, storage: Storage, expected: Expected) -> None:
        name = await placed(storage, 1)
        if expected in {"any", "present", 1}:
            assert (await storage.append(to(name, [some_message(9)], expected))).version == 2
            assert numbers(of(await stream(storage, name))) == [0, 9]
        else:
            with pytest.raises(ConcurrencyError, match="EB5003") as caught:
                await storage.append(to(name, [some_message(9)], expected))
            assert (caught.value.version, list(caught.value.conflicting)) == (1, [])
            assert numbers(of(await stream(storage, name))) == [0]

    @pytest.mark.parametrize("expected", ALL)
    @pytest.mark.parametrize("state", ["archived", "tombstoned"])
    async def test_a_stream_that_is_closed(
        self, storage: Storage, expected: Expected, state: str
    ) -> None:
        name = await placed(storage, 1)
        async with storage.transaction() as tx:
            assert await tx.events.close(name, state="archived")
            if state == "tombstoned":
                assert await tx.events.close(name, state="tombstoned")
                assert not await tx.events.close(name, state="archived")  # no way back
            assert not await tx.events.close(unique("order"), state="archived")
        with pytest.raises(StreamClosedError, match="EB5014"):
            await storage.append(to(name, [some_message(9)], expected))
        loaded = await load(storage, name)
        left = [0] if state == "archived" else []
        assert numbers(of(await stream(storage, name))) == left
        assert (numbers(of(loaded.tail)), loaded.version) == (left, len(left))

    @pytest.mark.parametrize("expected", ["any", "present", "absent", 1])
    async def test_the_same_ids_again_are_a_retry(
        self, storage: Storage, expected: Expected
    ) -> None:
        name = unique("order") if expected == "absent" else await placed(storage, 1)
        again = to(name, some_messages(2), expected, publish=[some_message(7)])
        first = await storage.append(again)
        await storage.append(to(name, [some_message(5)]))
        assert await storage.append(again) == Appended(
            version=first.version, position=first.position, repeated=True
        )
        events = await stream(storage, name)
        assert [each.version for each in events] == list(range(1, first.version + 2))
        assert numbers(await waiting(storage)) == [7]
        assert (await storage.append(to(name, [some_message(6)]))).version == first.version + 2

    @pytest.mark.parametrize("expected", ["absent", 1])
    async def test_as_many_other_events_are_no_retry(
        self, storage: Storage, expected: Expected
    ) -> None:
        name = unique("order") if expected == "absent" else await placed(storage, 1)
        one, two, three = some_messages(3)
        await storage.append(to(name, [one, two], expected))
        for others in ([two, one], [one, three], [one, two, three]):
            with pytest.raises(ConcurrencyError, match="EB5003"):
                await storage.append(to(name, others, expected))

    async def test_who_loses_gets_the_events_of_the_winner_and_may_go_on(
        self, storage: Storage
    ) -> None:
        name = await placed(storage, 1)
        await storage.append(to(name, [some_message(1)], 1))
        async with storage.transaction() as tx:
            with pytest.raises(ConcurrencyError, match="EB5003") as caught:
                await tx.events.append(
                    to(name, [some_message(2)], 1, publish=[some_message(2)]), conflicting=True
                )
            assert caught.value.version == 2
            assert numbers(of(caught.value.conflicting)) == [1]
            await tx.events.append(to(name, [some_message(3)], 2, publish=[some_message(3)]))
        assert numbers(of(await stream(storage, name))) == [0, 1, 3]
        assert numbers(await waiting(storage)) == [3]

    async def test_the_error_says_where_the_stream_is(self, storage: Storage) -> None:
        name = await placed(storage, 3)
        with pytest.raises(ConcurrencyError) as caught:
            await storage.append(to(name, [some_message()], 2))
        assert f"stream {name} is at version 3, expected 2" in str(caught.value)

    async def test_several_streams_and_savepoints_in_one_transaction(
        self, storage: Storage
    ) -> None:
        one, two, three = unique("order"), unique("order"), unique("order")
        async with storage.transaction() as tx:
            await tx.events.append(to(one, [some_message(1)], "absent", publish=[some_message(1)]))
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.events.append(to(one, [some_message(2)], 1, publish=[some_message(2)]))
                    await tx.events.append(to(two, [some_message(3)], "absent"))
                    raise LookupError
            await tx.events.append(to(three, [some_message(4)], "absent"))
            await tx.events.append(to(one, [some_message(5)], 1))
        found = [numbers(of(await stream(storage, name))) for name in (one, two, three)]
        assert found == [[1, 5], [], [4]]
        assert numbers(await waiting(storage)) == [1]

    async def test_a_transaction_rolled_back_leaves_nothing(self, storage: Storage) -> None:
        name = unique("order")
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.events.append(to(name, [some_message(1)], "absent"))
                assert numbers(of(await tx.events.read_stream(name))) == [1]
                raise LookupError
        assert await stream(storage, name) == []
        assert (await storage.append(to(name, [some_message(2)], "absent"))).version == 1

    async def test_a_stream_is_read_by_version_backwards_and_until_a_moment(
        self, storage: Storage
    ) -> None:
        name = await placed(storage, 5)
        events = await stream(storage, name)
        async with storage.transaction() as tx:
            some = await tx.events.read_stream(name, after=1, before=5, limit=2)
            last = await tx.events.read_stream(name, backwards=True, limit=2)
            then = await tx.events.read_stream(name, until=events[0].recorded_at)
            long_ago = events[0].recorded_at - timedelta(days=1)
            before = await tx.events.read_stream(name, until=long_ago)
        assert [each.version for each in some] == [2, 3]
        assert [each.version for each in last] == [5, 4]
        assert then[0] == events[0]
        assert list(before) == []

    async def test_tenants_have_streams_of_their_own(self, storage: Storage) -> None:
        name = unique("order")
        theirs = Message(
            id="1", type="t", source="s", topic="t", payload=b"7", headers={"tenant": "theirs"}
        )
        await storage.append(to(name, [some_message(1)], "absent"))
        await storage.append(to(name, [theirs], "absent"))
        async with storage.transaction() as tx:
            found = await tx.events.read_stream(name, tenant="theirs")
        assert (numbers(of(found)), found[0].tenant) == ([7], "theirs")
        ours = await stream(storage, name)
        assert (numbers(of(ours)), ours[0].tenant) == ([1], "")

    async def test_a_header_that_quotes_the_tenant_names_none(self, storage: Storage) -> None:
        name = unique("order")
        quoting = Message(
            id="1", type="t", source="s", topic="t", payload=b"7", headers={"note": '"tenant": "x"'}
        )
        await storage.append(to(name, [quoting], "absent"))
        assert [one.tenant for one in await stream(storage, name)] == [""]

    async def test_arguments_that_no_stream_can_take_are_refused(self, storage: Storage) -> None:
        theirs = Message(
            id="1", type="t", source="s", topic="t", payload=b"", headers={"tenant": "theirs"}
        )
        for append in (
            to("order-1", []),
            to("", [some_message(0)]),
            to("order-1", [some_message(0)], -1),
            to("order-1", [some_message(0)], cast("Expected", "sometimes")),
            to("order-1", [some_message(0), theirs]),
            to("order-" + "é" * 500, [some_message(0)]),
        ):
            with pytest.raises(StorageError, match="EB5015"):
                await storage.append(append)
        assert (await storage.append(to("é" * 500, [some_message(0)]))).version == 1

    async def test_what_goes_out_says_which_version_of_which_stream(self, storage: Storage) -> None:
        name = await placed(storage, 1)
        messages, other = some_messages(2), some_message(7)
        await storage.append(to(name, messages, "any", publish=[*messages, other]))
        told = {
            message.id: (message.headers.get("subject"), message.headers.get("sequence"))
            for message in await waiting(storage)  # in any order: their keys differ
        }
        versions = (f"{2:020d}", f"{3:020d}", None)
        sent = (one.id for one in (*messages, other))
        assert told == {each: (name, version) for each, version in zip(sent, versions, strict=True)}
        assert of(await stream(storage, name))[1:] == messages  # as they were encoded

    async def test_a_load_is_the_snapshot_and_what_came_after(self, storage: Storage) -> None:
        name = await placed(storage, 4)
        events = await stream(storage, name)
        await keep(storage, name, snapshot(events, 3))
        loaded = await load(storage, name)
        assert (loaded.snapshot, list(loaded.tail)) == (snapshot(events, 3), [events[3]])
        assert loaded.version == 4
        await keep(storage, name, snapshot(events, 4))
        loaded = await load(storage, name)
        assert (list(loaded.tail), loaded.version) == ([], 4)

    async def test_an_older_snapshot_never_replaces_a_newer_one(self, storage: Storage) -> None:
        name = await placed(storage, 4)
        events = await stream(storage, name)
        await keep(storage, name, snapshot(events, 3))
        await keep(storage, name, snapshot(events, 2))
        assert (await load(storage, name)).snapshot == snapshot(events, 3)

    async def test_a_snapshot_of_another_schema_is_ignored_and_replaced(
        self, storage: Storage
    ) -> None:
        name = await placed(storage, 4)
        events = await stream(storage, name)
        await keep(storage, name, snapshot(events, 3))
        other = await load(storage, name, schema_hash=b"new")
        assert (other.snapshot, list(other.tail)) == (None, list(events))
        await keep(storage, name, snapshot(events, 2, schema_hash=b"new"))
        replaced = await load(storage, name, schema_hash=b"new")
        assert replaced.snapshot == snapshot(events, 2, schema_hash=b"new")
        assert (await load(storage, name)).snapshot is None

    async def test_a_snapshot_of_no_stream_is_not_kept(self, storage: Storage) -> None:
        name = await placed(storage, 1)
        absent = unique("order")
        await keep(storage, absent, snapshot(await stream(storage, name), 1))
        loaded = await load(storage, absent)
        assert (loaded.snapshot, list(loaded.tail), loaded.version) == (None, [], 0)

    async def test_a_truncated_stream_begins_later(self, storage: Storage) -> None:
        name = await placed(storage, 4)
        events = await stream(storage, name)
        await keep(storage, name, snapshot(events, 1))
        assert await truncate(storage, name, before=3)
        loaded = await load(storage, name)
        assert (loaded.snapshot, list(loaded.tail), loaded.version) == (None, list(events[2:]), 4)
        assert list(await stream(storage, name)) == list(events[2:])
        assert not await truncate(storage, name, before=2)
        assert not await truncate(storage, name, before=6)  # beyond the end
        assert not await truncate(storage, unique("order"), before=1)
        assert list(await stream(storage, name)) == list(events[2:])
        await keep(storage, name, snapshot(events, 2))
        assert (await load(storage, name)).snapshot == snapshot(events, 2)
        assert (await storage.append(to(name, [some_message(9)], 4))).version == 5

    async def test_streams_are_loaded_whole(self, storage: Storage) -> None:
        names = [unique("order") for _ in range(5)]
        appends = [
            to(name, some_messages(number), "any", publish=some_messages(1))
            for number, name in enumerate(names, 1)
        ]
        start = (await storage.read_bound()).head
        assert await storage.load_events(appends) == 15
        for append in appends:
            events = await stream(storage, append.stream)
            assert of(events) == list(append.messages)
            assert [each.version for each in events] == list(range(1, len(events) + 1))
        async with storage.transaction() as tx:
            page = await tx.events.read_all(after=start, limit=100)
        assert len(page.events) == 15
        assert (page.read_to, await waiting(storage)) == (page.bound, [])
        assert (await storage.append(to(names[0], [some_message(9)], 1))).version == 2

    async def test_a_load_with_a_stream_that_exists_is_refused_or_goes_on_without_it(
        self, storage: Storage
    ) -> None:
        known, new = await placed(storage, 3), unique("order")
        appends = [to(new, some_messages(2)), to(known, some_messages(2))]
        with pytest.raises(ConcurrencyError, match="EB5003") as caught:
            await storage.load_events(appends)
        assert caught.value.version == 3
        assert list(await stream(storage, new)) == []
        assert await storage.load_events(appends, skip=True) == 2
        assert await storage.load_events(appends, skip=True) == 0
        assert len(await stream(storage, known)) == 3
        with pytest.raises(StorageError, match="EB5015"):
            await storage.load_events([to(new, some_messages(1)), to(new, some_messages(1))])

    async def test_a_stream_is_told_with_what_was_noted_on_it(self, storage: Storage) -> None:
        name, never = await placed(storage, 3), unique("order")
        told = StreamHead(version=3, state="open", kept_from=1, metadata={})
        assert [await head(storage, each) for each in (name, never)] == [told, None]
        await note(storage, name, {"owner": "billing", "retention": "P10Y"})
        await note(storage, name, {"owner": "sales"})
        assert await head(storage, name) == replace(told, metadata={"owner": "sales"})
        await truncate(storage, name, before=3)
        assert (await storage.append(to(name, [some_message(9)], 3))).version == 4
        async with storage.transaction() as tx:
            await tx.events.close(name, state="archived")
        await note(storage, name, {"owner": "archive"})
        assert await head(storage, name) == StreamHead(
            version=4, state="archived", kept_from=3, metadata={"owner": "archive"}
        )
        async with storage.transaction() as tx:
            await tx.events.close(name, state="tombstoned")
        gone = await head(storage, name)
        assert gone is not None
        assert (gone.state, gone.metadata) == ("tombstoned", {})

    async def test_what_no_stream_can_be_noted_is_refused(self, storage: Storage) -> None:
        name, dead = await placed(storage, 1), await placed(storage, 1)
        async with storage.transaction() as tx:
            await tx.events.close(dead, state="tombstoned")
        for stream_name, metadata in (
            (unique("order"), {"a": "b"}),
            (dead, {"a": "b"}),
            (name, {str(number): "" for number in range(65)}),
            (name, {"a": "x" * 8192}),
            (name, {"a": "\ud800"}),
        ):
            with pytest.raises(StorageError, match="EB5016"):
                await note(storage, stream_name, metadata)
        await note(storage, name, {"a": "x" * 8191})
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.events.note(name, {})
                raise LookupError
        found = await head(storage, name)
        assert found is not None
        assert len(found.metadata["a"]) == 8191

    async def test_metadata_are_of_a_stream_in_its_tenant(self, storage: Storage) -> None:
        name = await placed(storage, 1)
        with pytest.raises(StorageError, match="EB5016"):
            async with storage.transaction() as tx:
                await tx.events.note(name, {"a": "b"}, tenant="t1")
        async with storage.transaction() as tx:
            assert await tx.events.head(name, tenant="t1") is None

    async def test_what_was_cut_is_deleted_in_time(self, storage: Storage) -> None:
        while await storage.prune(inbox=timedelta(days=7), limit=1000):
            pass  # what other tests left
        cut, dead, whole = [await placed(storage, 4) for _ in range(3)]
        await truncate(storage, cut, before=3)
        async with storage.transaction() as tx:
            await tx.events.close(dead, state="tombstoned")
        gone = [await storage.prune(inbox=timedelta(days=7), limit=4) for _ in range(3)]
        assert gone == [4, 2, 0]
        assert numbers(of(await stream(storage, cut))) == [2, 3]
        assert numbers(of(await stream(storage, whole))) == [0, 1, 2, 3]
        assert (await storage.append(to(cut, [some_message(9)], 4))).version == 5
        with pytest.raises(StreamClosedError):
            await storage.append(to(dead, [some_message(9)]))


async def placed(storage: Storage, amount: int) -> str:
    """A stream with so many events."""
    name = unique("order")
    await storage.append(to(name, some_messages(amount), "absent"))
    return name


async def stream(storage: Storage, name: str) -> Sequence[RecordedMessage]:
    """All of it, in a transaction of its own."""
    async with storage.transaction() as tx:
        return await tx.events.read_stream(name)


async def load(storage: Storage, name: str, *, schema_hash: bytes = HASH) -> Loaded:
    """As a command handler does."""
    async with storage.transaction() as tx:
        return await tx.events.load(name, kind="order", schema_hash=schema_hash)


async def keep(storage: Storage, name: str, snapshot: Snapshot) -> None:
    """Save it."""
    async with storage.transaction() as tx:
        await tx.events.save_snapshot(name, snapshot)


async def head(storage: Storage, name: str) -> StreamHead | None:
    """How it stands."""
    async with storage.transaction() as tx:
        return await tx.events.head(name)


async def note(storage: Storage, name: str, metadata: Mapping[str, str]) -> None:
    """Note it."""
    async with storage.transaction() as tx:
        await tx.events.note(name, metadata)


async def truncate(storage: Storage, name: str, *, before: int) -> bool:
    """Cut it; whether it was."""
    async with storage.transaction() as tx:
        return await tx.events.truncate(name, before=before)


def snapshot(
    events: Sequence[RecordedMessage], version: int, *, schema_hash: bytes = HASH
) -> Snapshot:
    """The state after so many of these events."""
    return Snapshot(
        kind="order",
        schema_hash=schema_hash,
        version=version,
        position=Position(events[version - 1].position),
        state=f"\0{version}".encode(),
    )


def of(events: Sequence[RecordedMessage]) -> list[Message]:
    """Their messages."""
    return [each.message for each in events]


async def waiting(storage: Storage) -> list[Message]:
    """What stands in the outbox."""
    leases = await take_partitions(storage)
    async with storage.transaction() as tx:
        rows = await tx.outbox.read(leases, limit=1000)
        await tx.leases.release(leases)
    return [row.message for row in rows]
