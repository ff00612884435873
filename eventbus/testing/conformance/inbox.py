"""What a group has done already: duplicates, keys that are held, attempts."""
# ruff: noqa: D102, S101, S311 - a suite: names are sentences, it asserts, its dice are seeded

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest

from eventbus.message import Message
from eventbus.storage import Storage, Transaction
from eventbus.storage.inbox import Received
from eventbus.testing.conformance.samples import (
    AFTER_SOON,
    DEADLINE,
    LONG,
    Clock,
    at_once,
    failed,
    queued,
    some_message,
    some_messages,
    take,
    unique,
)

OLD_ID = "0163b2a5-1c00-7cc3-98c4-dc0c0c07398f"  # a UUIDv7 of 2018
UUID4 = "3f2b6f9e-8a0e-4c57-9f0d-2f1d8a4c6b11"


class InboxSuite:
    """Subclass it with the fixtures `storage`, an entered storage, and `clock`, its time."""

    async def test_a_message_is_new_once(self, storage: Storage) -> None:
        group, messages = unique("group"), some_messages(3)
        assert (await _receive(storage, group, *messages)).new == _identities(messages)
        assert (await _receive(storage, group, *messages)).new == frozenset()

    async def test_what_is_new_is_told_apart_within_a_batch(self, storage: Storage) -> None:
        group, messages = unique("group"), some_messages(6)
        await _receive(storage, group, *messages[::2])
        found = await _receive(storage, group, *messages)
        assert found.new == _identities(messages[1::2])

    async def test_a_message_given_twice_is_recorded_and_returned_once(
        self, storage: Storage
    ) -> None:
        group, (first, second) = unique("group"), some_messages(2)
        found = await _receive(storage, group, first, second, first, first)
        assert found.new == _identities([first, second])
        assert (await _receive(storage, group, first, first)).new == frozenset()

    async def test_called_again_in_its_transaction_it_finds_nothing_new(
        self, storage: Storage
    ) -> None:
        group, message = unique("group"), some_message()
        async with storage.transaction() as tx:
            await _received(tx, group, message)
            assert (await _received(tx, group, message)).new == frozenset()

    async def test_attempts_are_what_count_said_and_add_nothing(self, storage: Storage) -> None:
        group, (counted, parked, untouched) = unique("group"), some_messages(3)
        for _ in range(2):
            async with storage.transaction() as tx:
                await tx.inbox.count([counted], group=group)
        async with storage.transaction() as tx:
            await tx.parking.park([failed(parked, attempts=3)], group=group)
        for _ in range(2):
            async with storage.transaction() as tx:
                found = await tx.inbox.attempts([counted, parked, untouched], group=group)
            assert dict(found) == {counted.identity: 2, parked.identity: 3}

    async def test_groups_never_see_each_others_messages(self, storage: Storage) -> None:
        group, message = unique("group"), some_message()
        await _receive(storage, group, message)
        assert (await _receive(storage, group + "x", message)).new == {message.identity}

    async def test_foreign_ids_are_equal_only_within_their_source(self, storage: Storage) -> None:
        group = unique("group")
        ours, theirs = some_message(id="7", source="shop"), some_message(id="7", source="bank")
        assert (await _receive(storage, group, ours)).new == {ours.identity}
        assert (await _receive(storage, group, theirs)).new == {theirs.identity}
        assert (await _receive(storage, group, ours, theirs)).new == frozenset()

    async def test_a_uuid_is_equal_however_it_is_written(self, storage: Storage) -> None:
        group = unique("group")
        await _receive(storage, group, some_message(id=UUID4, source="shop"))
        again = await _receive(storage, group, some_message(id=UUID4.upper(), source="bank"))
        assert again.new == frozenset()

    @pytest.mark.parametrize("time", ["", "2019-05-04T23:59:59.9Z", "1969-01-01T00:00:00Z", "?"])
    @pytest.mark.parametrize("id", [OLD_ID, UUID4, "foreign-7"])
    async def test_a_message_of_any_day_is_recognised(
        self, storage: Storage, id: str, time: str
    ) -> None:
        group = unique("group")
        message = Message(
            id=id, type="a.b", source="s", topic="a", payload=b"", headers={"time": time}
        )
        assert (await _receive(storage, group, message)).new == {message.identity}
        assert (await _look(storage, group, message)).new == frozenset()
        assert (await _receive(storage, group, message)).new == frozenset()

    async def test_a_duplicate_after_midnight_is_recognised(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, message = unique("group"), some_message()
        await _receive(storage, group, message)
        await clock.advance(timedelta(days=2).total_seconds() if clock.jumps else AFTER_SOON)
        assert (await _look(storage, group, message)).new == frozenset()
        assert (await _receive(storage, group, message)).new == frozenset()

    async def test_what_was_rolled_back_is_new_again(self, storage: Storage) -> None:
        group, (outer, inner) = unique("group"), some_messages(2)
        async with storage.transaction() as tx:
            await _received(tx, group, outer)
            with suppress(LookupError):
                async with tx.savepoint():
                    await _received(tx, group, inner)
                    raise LookupError
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.inbox.forget([outer], group=group)
                raise LookupError
        assert (await _receive(storage, group, outer, inner)).new == {inner.identity}

    async def test_looking_answers_the_same_and_records_nothing(self, storage: Storage) -> None:
        group, key = unique("group"), unique("key")
        old, new = some_message(key=key), some_message(key="free")
        await _receive(storage, group, old)
        await _park(storage, group, some_message(key=key))
        looked = await _look(storage, group, old, new, new)
        assert looked == Received(new=frozenset({new.identity}), held=frozenset({key}))
        assert await _receive(storage, group, old, new, new) == looked

    async def test_what_is_forgotten_is_new_again(self, storage: Storage) -> None:
        group, messages = unique("group"), some_messages(3)
        await _receive(storage, group, *messages)
        await _receive(storage, group + "x", *messages)
        async with storage.transaction() as tx:
            await tx.inbox.forget(messages[:2], group=group)
        assert (await _receive(storage, group, *messages)).new == _identities(messages[:2])
        assert (await _receive(storage, group + "x", *messages)).new == frozenset()

    async def test_keys_that_are_held_are_told(self, storage: Storage) -> None:
        group = unique("group")
        retried, dead, free = unique("retried"), unique("dead"), unique("free")
        await _park(storage, group, some_message(key=retried))
        async with storage.transaction() as tx:
            await tx.parking.park([failed(some_message(key=dead), delay=None)], group=group)
        batch = [some_message(key=key) for key in (free, retried, free, dead, retried)]
        found = await _receive(storage, group, *batch)
        assert found == Received(new=_identities(batch), held=frozenset({retried, dead}))
        assert (await _receive(storage, group, some_message(key=free))).held == frozenset()
        assert (await _receive(storage, group + "x", *batch)).held == frozenset()

    async def test_a_key_held_by_a_duplicate_is_told_too(self, storage: Storage) -> None:
        group, message = unique("group"), some_message(key=unique("key"))
        await _receive(storage, group, message)
        await _park(storage, group, message)
        found = await _receive(storage, group, message)
        assert found == Received(new=frozenset(), held=frozenset({str(message.key)}))

    async def test_a_key_parked_in_this_transaction_is_held(self, storage: Storage) -> None:
        group, key = unique("group"), unique("key")
        async with storage.transaction() as tx:
            await tx.parking.park([queued(some_message(key=key))], group=group)
            assert (await _received(tx, group, some_message(key=key))).held == {key}

    async def test_a_concurrent_duplicate_waits_and_is_then_told(self, storage: Storage) -> None:
        group, message = unique("group"), some_message()
        first, second, order = await _race(storage, group, message, first_fails=False)
        assert (first, second) == (frozenset({message.identity}), frozenset())
        assert order == ["first ends", "second was told"]

    async def test_a_concurrent_duplicate_of_what_is_rolled_back_runs(
        self, storage: Storage
    ) -> None:
        group, message = unique("group"), some_message()
        first, second, order = await _race(storage, group, message, first_fails=True)
        assert first == second == {message.identity}
        assert order == ["first ends", "second was told"]

    async def test_overlapping_batches_in_any_order_run_each_once(self, storage: Storage) -> None:
        group, messages, dice = unique("group"), some_messages(40), random.Random(7)
        batches = [dice.sample(messages, 30) for _ in range(12)]
        found = await at_once(*(_receive(storage, group, *batch) for batch in batches))
        new = [identity for one in found for identity in one.new]
        assert len(new) == len(set(new))
        assert set(new) == {m.identity for batch in batches for m in batch}

    async def test_a_thousand_messages_in_one_call(self, storage: Storage) -> None:
        group, messages = unique("group"), some_messages(1000)
        assert len((await _receive(storage, group, *messages)).new) == 1000
        assert (await _look(storage, group, *messages)).new == frozenset()

    async def test_attempts_are_counted_and_persist(self, storage: Storage) -> None:
        group, (first, second) = unique("group"), some_messages(2)
        assert await _count(storage, group, first) == {first.identity: 1}
        both = await _count(storage, group, first, second)
        assert both == {first.identity: 2, second.identity: 1}
        assert await _count(storage, group + "x", first) == {first.identity: 1}
        assert await _count(storage, group, first) == {first.identity: 3}

    async def test_an_attempt_of_a_message_given_twice_counts_once(self, storage: Storage) -> None:
        group, message = unique("group"), some_message()
        assert await _count(storage, group, message, message) == {message.identity: 1}

    async def test_a_count_that_was_rolled_back_did_not_happen(self, storage: Storage) -> None:
        group, message = unique("group"), some_message()
        await _count(storage, group, message)
        async with storage.transaction() as tx:
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.inbox.count([message], group=group)
                    raise LookupError
        assert await _count(storage, group, message) == {message.identity: 2}

    async def test_attempts_do_not_fall_when_the_message_is_received_or_forgotten(
        self, storage: Storage
    ) -> None:
        group, message = unique("group"), some_message()
        await _count(storage, group, message)
        await _receive(storage, group, message)
        async with storage.transaction() as tx:
            await tx.inbox.forget([message], group=group)
        assert await _count(storage, group, message) == {message.identity: 2}

    async def test_a_parked_message_is_counted_where_it_is_parked(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, key = unique("group"), unique("key")
        parked, other = some_message(1, key=key), some_message(2)
        await _park(storage, group, parked, attempts=3)
        assert await _count(storage, group, parked, other) == {
            parked.identity: 4,
            other.identity: 1,
        }
        await clock.advance(AFTER_SOON)
        lease = await take(storage, unique("parked"))
        async with storage.transaction() as tx:
            rows = await tx.parking.due(lease, group=group, limit=10)
        assert [row.attempts for row in rows] == [4]

    async def test_an_attempt_can_be_taken_back_where_it_stands(self, storage: Storage) -> None:
        group, (parked, other, untouched) = unique("group"), some_messages(3)
        await _park(storage, group, parked, attempts=3)
        await _count(storage, group, parked, other)
        async with storage.transaction() as tx:
            await tx.inbox.uncount([parked, other, untouched], group=group)
            await tx.inbox.uncount([other], group=group + "x")
            found = await tx.inbox.attempts([parked, other, untouched], group=group)
        assert found == {parked.identity: 3, other.identity: 0}
        assert await _count(storage, group, parked, other) == {
            parked.identity: 4,
            other.identity: 1,
        }

    async def test_attempts_of_a_parked_message_never_fall(self, storage: Storage) -> None:
        group, message = unique("group"), some_message(key=unique("key"))
        await _park(storage, group, message, attempts=5)
        await _park(storage, group, message, attempts=1)
        assert await _count(storage, group, message) == {message.identity: 6}


def _identities(messages: Sequence[Message]) -> frozenset[UUID]:
    return frozenset(message.identity for message in messages)


async def _received(tx: Transaction, group: str, *messages: Message) -> Received:
    keys = [message.key or "" for message in messages]
    return await tx.inbox.receive(messages, keys=keys, group=group)


async def _receive(storage: Storage, group: str, *messages: Message) -> Received:
    async with storage.transaction() as tx:
        return await _received(tx, group, *messages)


async def _look(storage: Storage, group: str, *messages: Message) -> Received:
    keys = [message.key or "" for message in messages]
    async with storage.transaction() as tx:
        return await tx.inbox.look(messages, keys=keys, group=group)


async def _count(storage: Storage, group: str, *messages: Message) -> Mapping[UUID, int]:
    async with storage.transaction() as tx:
        return dict(await tx.inbox.count(messages, group=group))


async def _park(storage: Storage, group: str, message: Message, *, attempts: int = 1) -> None:
    async with storage.transaction() as tx:
        await tx.parking.park([failed(message, attempts=attempts)], group=group)


async def _race(
    storage: Storage, group: str, message: Message, *, first_fails: bool
) -> tuple[frozenset[UUID], frozenset[UUID], list[str]]:
    """Receive in two transactions at once; the first has it when the second asks."""
    has_it, asks, order = asyncio.Event(), asyncio.Event(), list[str]()

    async def first() -> frozenset[UUID]:
        new: frozenset[UUID] = frozenset()
        with suppress(LookupError):
            async with storage.transaction() as tx:
                new = (await _received(tx, group, message)).new
                has_it.set()
                await asks.wait()
                for number in range(5):  # statements, so that the second comes as far as it can
                    await tx.leases.acquire([f"{group}/{number}"], owner="us", ttl=LONG, limit=1)
                order.append("first ends")
                if first_fails:
                    raise LookupError
        return new

    async def second() -> frozenset[UUID]:
        await has_it.wait()
        asks.set()
        new = (await _receive(storage, group, message)).new
        order.append("second was told")
        return new

    async with asyncio.timeout(DEADLINE):
        one, two = await at_once(first(), second())
    return one, two, order
