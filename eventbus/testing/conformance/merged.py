"""One-shot appends of many tasks at once: each caller its own verdict."""
# ruff: noqa: D102, S101, S311 - a suite: names are sentences, it asserts; seeded dice

import asyncio
import random

import pytest

from eventbus.errors import ConcurrencyError, StorageError
from eventbus.storage import Storage
from eventbus.storage.events import Append, Appended, Expected
from eventbus.testing.conformance.events import of, placed, stream, to, waiting
from eventbus.testing.conformance.samples import (
    at_once,
    numbers,
    some_message,
    some_messages,
    unique,
)

CALLERS = 40


class MergedAppendSuite:
    """Subclass it with a fixture `storage`: an entered storage with an empty outbox."""

    async def test_each_caller_has_its_own_verdict(self, storage: Storage) -> None:
        taken = [await placed(storage, 1) for _ in range(CALLERS)]
        free = [unique("order") for _ in range(CALLERS)]
        verdicts = await at_once(
            *(
                judged(storage, to(name, [some_message(5)], "absent", publish=[some_message(5)]))
                for pair in zip(taken, free, strict=True)
                for name in pair
            )
        )
        for lost, won in zip(verdicts[::2], verdicts[1::2], strict=True):
            assert isinstance(lost, ConcurrencyError)
            assert lost.version == 1
            assert isinstance(won, Appended)
            assert (won.version, won.repeated) == (1, False)
        for name in taken:
            assert numbers(of(await stream(storage, name))) == [0]
        for name in free:
            (event,) = await stream(storage, name)
            assert event.message.payload == b"5"
        assert numbers(await waiting(storage)) == [5] * CALLERS

    async def test_appends_to_one_stream_go_in_the_order_in_which_they_came(
        self, storage: Storage
    ) -> None:
        name = unique("order")
        appended = await at_once(
            *(storage.append(to(name, [some_message(number)], number)) for number in range(CALLERS))
        )
        assert [each.version for each in appended] == list(range(1, CALLERS + 1))
        assert numbers(of(await stream(storage, name))) == list(range(CALLERS))

    async def test_one_of_two_that_decided_on_the_same_version_wins(self, storage: Storage) -> None:
        name = await placed(storage, 1)
        verdicts = await at_once(
            *(judged(storage, to(name, [some_message(number)], 1)) for number in range(CALLERS))
        )
        assert [isinstance(each, Appended) for each in verdicts].count(True) == 1
        assert len(await stream(storage, name)) == 2

    async def test_a_cancelled_caller_takes_nothing_from_the_others(self, storage: Storage) -> None:
        names = [unique("order") for _ in range(CALLERS)]
        appends = [to(name, [some_message(1)], "absent") for name in names]
        tasks = [
            asyncio.create_task(storage.append(append), name=f"append:{append.stream}")
            for append in appends
        ]
        await asyncio.wait(tasks[:1])
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.result().version == 1 for task in tasks if not task.cancelled())
        again = [await storage.append(append) for append in appends]  # the same ids settle it
        assert {each.version for each in again} == {1}
        assert all(each.repeated for each in again[::2])

    async def test_a_refused_append_is_refused_alone(self, storage: Storage) -> None:
        names = [unique("order") for _ in range(4)]
        verdicts = await at_once(
            judged(storage, to(names[0], [some_message(1)])),
            judged(storage, to(names[1], [])),
            judged(storage, to(names[2], [some_message(1)])),
        )
        assert [isinstance(each, Appended) for each in verdicts] == [True, False, True]

    async def test_inside_a_transaction_of_this_task_it_would_wait_for_itself(
        self, storage: Storage
    ) -> None:
        async with storage.transaction():
            with pytest.raises(StorageError, match="EB5002"):
                await storage.append(to(unique("order"), [some_message(1)]))

    async def test_every_verdict_is_true_beside_transactions_that_append(
        self, storage: Storage
    ) -> None:
        names = [unique("order") for _ in range(6)]
        counted = dict.fromkeys(names, 0)

        async def call(number: int) -> None:
            dice = random.Random(number)
            for _ in range(8):
                name, count = dice.choice(names), dice.randint(1, 3)
                expected: Expected = dice.choice(["any", "present", "absent", counted[name]])
                append = to(name, some_messages(count), expected)
                if dice.random() < 0.3:
                    verdict = await judged_inside(storage, append)
                else:
                    verdict = await judged(storage, append)
                if isinstance(verdict, Appended):
                    counted[name] += count

        await at_once(*(call(number) for number in range(CALLERS)))
        assert sum(counted.values()) > CALLERS, "hardly anything was appended"
        for name, count in counted.items():
            versions = [each.version for each in await stream(storage, name)]
            assert versions == list(range(1, count + 1))


async def judged(storage: Storage, append: Append) -> Appended | StorageError:
    """The verdict, as a value."""
    try:
        return await storage.append(append)
    except StorageError as error:
        return error


async def judged_inside(storage: Storage, append: Append) -> Appended | StorageError:
    """The same in a transaction of its own."""
    async with storage.transaction() as tx:
        try:
            return await tx.events.append(append)
        except ConcurrencyError as error:
            return error
