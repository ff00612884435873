"""The feed: one order of all streams, in which nothing appears behind a reader (S5)."""
# ruff: noqa: D102, S101, S311 - a suite: names are sentences, it asserts; seeded dice

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from eventbus.errors import ConcurrencyError
from eventbus.message import Message
from eventbus.storage import Storage
from eventbus.storage.events import EVERYTHING, Append, Expected, Filter, Position, RecordedMessage
from eventbus.testing.conformance.events import of, placed, to, truncate
from eventbus.testing.conformance.samples import (
    at_once,
    numbers,
    some_message,
    some_messages,
    unique,
)

EXPECTATIONS: tuple[Expected, ...] = ("any", "any", "present", "absent", 0, 1, 2, 3)
WRITERS, ROUNDS, STREAMS = 6, 25, 4


class FeedSuite:
    """Subclass it with a fixture `storage`: an entered storage. Each test reads from the end."""

    async def test_it_has_everything_once_in_the_order_of_positions(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        one = await placed(storage, 3)
        two = await placed(storage, 2)
        await storage.append(to(one, [some_message(9)], 3))
        found = await feed(storage, start, page=2)
        assert [(each.stream, each.version) for each in found] == [
            (one, 1), (one, 2), (one, 3), (two, 1), (two, 2), (one, 4),
        ]  # fmt: skip
        positions = [each.position for each in found]
        assert positions == sorted(set(positions))
        bound = await storage.read_bound()
        assert bound.bound == bound.head == positions[-1]

    async def test_what_this_transaction_appended_is_not_in_it_yet(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        await placed(storage, 1)
        async with storage.transaction() as tx:
            await tx.events.append(to(unique("order"), [some_message(7)]))
            page = await tx.events.read_all(after=start, limit=10)
            assert numbers(of(page.events)) == [0]
            assert page.read_to == page.bound
        assert numbers(of(await feed(storage, start))) == [0, 7]

    async def test_it_goes_up_to_a_position_and_no_further(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        await placed(storage, 4)
        third = (await feed(storage, start))[2].position
        async with storage.transaction() as tx:
            page = await tx.events.read_all(after=start, limit=10, upto=third)
            rest = await tx.events.read_all(after=page.read_to, limit=10, upto=third)
        assert numbers(of(page.events)) == [0, 1, 2]
        assert (list(rest.events), page.read_to, rest.read_to) == ([], third, third)
        assert page.bound > third

    async def test_a_filter_is_decided_in_the_database(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        category = unique("cart")
        theirs = Message(
            id="1", type="t", source="s", topic="t", payload=b"7", headers={"tenant": "theirs"}
        )
        await placed(storage, 2)
        await storage.append(to(f"{category}-1", [some_message(5)]))
        await storage.append(to(category, [some_message(6)]))
        await storage.append(to(f"{category}-1", [theirs]))
        for only, expected in (
            (Filter(category=category), [5, 6, 7]),
            (Filter(category=category, tenant=""), [5, 6]),
            (Filter(tenant="theirs"), [7]),
            (Filter(types=("t", "absent")), [7]),
            (Filter(types=("t", "shop.order-placed")), [0, 1, 5, 6, 7]),
            (Filter(category=category.removesuffix(category[-1])), []),
        ):
            assert numbers(of(await feed(storage, start, only=only))) == expected

    async def test_a_filter_that_lets_nothing_through_moves_on(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        await placed(storage, 3)
        head = (await storage.read_bound()).head
        async with storage.transaction() as tx:
            page = await tx.events.read_all(after=start, limit=2, only=Filter(types=("other",)))
        assert (list(page.events), page.read_to, page.bound) == ([], head, head)

    async def test_a_position_never_comes_again(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        name = await placed(storage, 3)
        head = (await storage.read_bound()).head
        async with storage.transaction() as tx:
            await tx.events.close(name, state="tombstoned")
        await storage.prune(inbox=timedelta(days=7), limit=10_000)
        assert await feed(storage, start) == []
        assert (await storage.read_bound()).head == head
        appended = await storage.append(to(unique("order"), [some_message(1)]))
        assert appended.position > head

    async def test_what_was_truncated_is_shown_until_it_is_deleted(self, storage: Storage) -> None:
        start = (await storage.read_bound()).head
        name = await placed(storage, 3)
        await truncate(storage, name, before=3)
        assert numbers(of(await feed(storage, start))) == [0, 1, 2]
        await storage.prune(inbox=timedelta(days=7), limit=10_000)
        assert numbers(of(await feed(storage, start))) == [2]

    @pytest.mark.timeout(180)
    async def test_nothing_is_lost_repeated_or_inverted_under_all_kinds_of_writers(
        self, storage: Storage
    ) -> None:
        """Writers of every expectation, rollbacks, savepoints, retries; a reader all the while."""
        start = (await storage.read_bound()).head
        kept: list[str] = []
        streams = [unique("order") for _ in range(STREAMS)]
        writing = WRITERS

        async def write(number: int) -> None:
            nonlocal writing
            dice = random.Random(number)
            for _ in range(ROUNDS):
                messages = some_messages(dice.randint(1, 3))
                expected = dice.choice(EXPECTATIONS)
                append = to(dice.choice(streams), messages, expected)
                with suppress(ConcurrencyError, LookupError):
                    if dice.random() < 0.4:
                        await storage.append(append)
                    else:
                        await in_a_transaction(storage, append, dice)
                    kept.extend(message.id for message in messages)
                    if dice.random() < 0.3:
                        assert (await storage.append(append)).repeated
            writing -= 1

        async def read() -> list[RecordedMessage]:
            found: list[RecordedMessage] = []
            after, last = start, False
            while True:
                async with storage.transaction() as tx:
                    page = await tx.events.read_all(after=after, limit=7)
                found += page.events
                if page.read_to == after and last:
                    return found
                last = writing == 0
                if page.read_to == after:
                    await storage.wait("events", at_most=timedelta(milliseconds=20))
                after = page.read_to

        *_, found = await at_once(*(wrapped(write, number) for number in range(WRITERS)), read())
        assert found is not None
        assert len(kept) > WRITERS * ROUNDS / 2, "hardly anything was appended"
        assert sorted(each.message.id for each in found) == sorted(kept)
        assert found == await feed(storage, start)
        for name in streams:
            versions = [each.version for each in found if each.stream == name]
            assert versions == list(range(1, len(versions) + 1))


async def wrapped(
    write: Callable[[int], Awaitable[None]], number: int
) -> list[RecordedMessage] | None:
    """A writer among readers, whose tasks answer the same kind of thing."""
    await write(number)
    return None


async def in_a_transaction(storage: Storage, append: Append, dice: random.Random) -> None:
    """Perhaps after a savepoint that is rolled back, perhaps rolled back itself."""
    async with storage.transaction() as tx:
        if dice.random() < 0.3:
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.events.append(to(append.stream, [some_message()], "any"))
                    raise LookupError
        await tx.events.append(append)
        if dice.random() < 0.15:
            raise LookupError


async def feed(
    storage: Storage, after: Position, *, page: int = 100, only: Filter = EVERYTHING
) -> Sequence[RecordedMessage]:
    """All that can be read of it now."""
    found: list[RecordedMessage] = []
    while True:
        async with storage.transaction() as tx:
            read = await tx.events.read_all(after=after, limit=page, only=only)
        found += read.events
        if read.read_to == after:
            return found
        after = read.read_to
