"""Messages that failed, and what waits behind their keys, in order."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import pytest

from eventbus.errors import LeaseLostError
from eventbus.message import Message, own_key
from eventbus.storage import Storage
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Crowd, Parked
from eventbus.testing.conformance.samples import (
    AFTER_SOON,
    LONG,
    SOON,
    Clock,
    at_once,
    failed,
    numbers,
    queued,
    some_failure,
    some_message,
    some_messages,
    take,
    take_over,
    unique,
)


class ParkingSuite:
    """Subclass it with the fixtures `storage`, an entered storage, and `clock`, its time."""

    async def test_a_failed_message_is_due_after_its_delay(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, failed(some_message(key=unique("key"))))
        assert await _due(storage, lease, group) == []
        await clock.advance(AFTER_SOON)
        assert len(await _due(storage, lease, group)) == 1
        assert len(await _due(storage, lease, group)) == 1, "reading it settles nothing"

    async def test_a_parked_message_comes_back_whole(self, storage: Storage, clock: Clock) -> None:
        group, lease = await _group(storage)
        message = Message(
            id="foreign / 7",
            type="shop.order-placed",
            source="läden",
            topic="shop.eu",
            payload=b"\x00\xff",
            key="Zürich",
            headers={"tenant": "t", "subject": "🚚"},
        )
        sent = replace(failed(message, attempts=3), key="own", origin="kafka:shop/3/1042")
        await _park(storage, group, sent)
        await clock.advance(AFTER_SOON)
        (back,) = await _due(storage, lease, group)
        assert replace(back, delay=sent.delay) == sent

    async def test_a_message_without_key_comes_back_without(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        sent = queued(some_message(1))
        await _park(storage, group, sent)
        (back,) = await _due(storage, lease, group)
        assert (back.message.key, back.key) == (None, own_key(sent.message))
        assert back.failure is None

    async def test_a_position_comes_back(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        sent = replace(queued(some_message(1, key="k")), position=Position(2**40))
        await _park(storage, group, sent)
        (back,) = await _due(storage, lease, group)
        assert back.position == sent.position
        assert back.message.id == sent.message.id

    @pytest.mark.parametrize("reason", ["failed", "exhausted", "rejected", "quarantined"])
    async def test_a_failure_comes_back_whole(
        self,
        storage: Storage,
        clock: Clock,
        reason: Literal["failed", "exhausted", "rejected", "quarantined"],
    ) -> None:
        group, lease = await _group(storage)
        failure = replace(some_failure("müde\n" * 1300), reason=reason, code="EB4103")
        await _park(storage, group, replace(failed(some_message(key="k")), failure=failure))
        await clock.advance(AFTER_SOON)
        assert [row.failure for row in await _due(storage, lease, group)] == [failure]

    async def test_what_only_queues_is_due_at_once(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, *map(queued, some_messages(3, key="k")))
        assert numbers(await _due(storage, lease, group)) == [0, 1, 2]

    async def test_what_queues_behind_a_failed_head_waits_with_it_in_order(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        head, second, third, fourth = some_messages(4, key="k")
        await _park(storage, group, failed(head), queued(second))
        await _park(storage, group, queued(third))
        await _park(storage, group, failed(fourth, delay=SOON / 100))
        assert await _due(storage, lease, group) == []
        await clock.advance(AFTER_SOON)
        assert numbers(await _due(storage, lease, group)) == [0, 1, 2, 3]

    async def test_a_crowd_is_counted_by_group_and_by_its_fullest_key(
        self, storage: Storage
    ) -> None:
        group, _ = await _group(storage)
        await _park(storage, group, *map(queued, some_messages(3, key="k")))
        await _park(storage, group, *map(queued, some_messages(2, key="l")))
        async with storage.transaction() as tx:
            assert await tx.parking.crowd(group=group, above=5) == Crowd(messages=5, behind_key=3)
            assert await tx.parking.crowd(group=group, above=6) == Crowd(messages=5, behind_key=0)
            other = await tx.parking.crowd(group=group + "x", above=0)
        assert other == Crowd(messages=0, behind_key=0)

    async def test_keys_do_not_wait_for_each_other(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        waiting, going = some_messages(2, key="a"), some_messages(2, key="b")
        await _park(storage, group, *map(failed, waiting), *map(queued, going))
        rows = await _due(storage, lease, group)
        assert [row.message for row in rows] == going

    async def test_many_keys_each_keep_their_order(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        for number in range(5):
            rows = [queued(some_message(number, key=f"k{key}")) for key in range(30)]
            await _park(storage, group, *rows)
        found = await _due(storage, lease, group)
        for key in range(30):
            assert numbers(row for row in found if row.key == f"k{key}") == [0, 1, 2, 3, 4]

    async def test_groups_stay_apart(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        message = some_message(key="k")
        await _park(storage, group, queued(message))
        await _park(storage, group + "x", failed(message, delay=None))
        assert len(await _due(storage, lease, group)) == 1
        await _settle(storage, lease, group, *await _due(storage, lease, group))
        assert await _due(storage, lease, group) == []
        assert await _keys(storage, group) == frozenset()
        assert await _keys(storage, group + "x") == {"k"}

    async def test_parked_again_it_keeps_its_place_and_the_last_failure(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head, text="first"), queued(second))
        await _park(storage, group, queued(second), failed(head, attempts=2, text="second"))
        await _park(storage, group, queued(head))
        await clock.advance(AFTER_SOON)
        rows = await _due(storage, lease, group)
        assert numbers(rows) == [0, 1]
        assert [row.attempts for row in rows] == [2, 0]
        assert rows[0].failure == some_failure("second")

    async def test_a_lane_does_not_move_what_a_held_key_waits_for(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        head, second, third = some_messages(3, key="k")
        await _park(storage, group, failed(head))
        await _park(storage, group, failed(second, delay=SOON * 100))
        await _park(storage, group, failed(third, delay=None))
        await clock.advance(AFTER_SOON)
        assert numbers(await _due(storage, lease, group)) == [0, 1, 2]

    async def test_a_failure_without_delay_is_dead_and_holds_its_key(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head, delay=None))
        await _park(storage, group, queued(second))
        await clock.advance(AFTER_SOON)
        assert await _due(storage, lease, group) == []
        assert await _keys(storage, group) == {"k"}
        assert await _behind(storage, lease, "k", group, closing=True) is None

    async def test_a_row_without_a_failure_never_makes_its_key_dead(
        self, storage: Storage, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head))
        await _park(storage, group, queued(second), lease=lease)
        assert await _due(storage, lease, group) == [], "nor does it change what is due"
        await clock.advance(AFTER_SOON)
        assert numbers(await _due(storage, lease, group)) == [0, 1]

    async def test_a_row_without_a_failure_revives_no_dead_key(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head, delay=None))
        await _park(storage, group, queued(second), lease=lease)
        assert await _due(storage, lease, group) == []

    async def test_the_redelivery_speaks_for_the_key(self, storage: Storage, clock: Clock) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, queued(head), queued(second))
        assert len(await _due(storage, lease, group)) == 2
        await _park(storage, group, failed(head), lease=lease)
        assert await _due(storage, lease, group) == []
        await clock.advance(AFTER_SOON)
        assert numbers(await _due(storage, lease, group)) == [0, 1]
        await _park(storage, group, failed(head, delay=None, attempts=2), lease=lease)
        await clock.advance(AFTER_SOON)
        assert await _due(storage, lease, group) == []

    async def test_parking_under_a_lost_lease_is_refused(self, storage: Storage) -> None:
        group, lost = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, queued(head))
        taken = await take_over(storage, lost)
        for row in (failed(head, delay=None), queued(second), failed(some_message(key="new"))):
            with pytest.raises(LeaseLostError):
                await _park(storage, group, row, lease=lost)
        assert numbers(await _due(storage, taken, group)) == [0]
        assert await _keys(storage, group) == {"k"}

    async def test_settling_under_a_lost_lease_is_refused(self, storage: Storage) -> None:
        group, lost = await _group(storage)
        await _park(storage, group, queued(some_message(key="k")))
        rows = await _due(storage, lost, group)
        taken = await take_over(storage, lost)
        with pytest.raises(LeaseLostError):
            await _settle(storage, lost, group, *rows)
        assert await _due(storage, taken, group) == rows

    async def test_what_somebody_settled_cannot_be_settled_again(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, *map(queued, some_messages(2, key="k")))
        first, second = await _due(storage, lease, group)
        await _settle(storage, lease, group, first)
        with pytest.raises(LeaseLostError):
            await _settle(storage, lease, group, first, second)
        assert await _due(storage, lease, group) == [second]

    async def test_a_settled_key_is_held_until_it_is_found_empty(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        first, second = some_messages(2, key="k")
        await _park(storage, group, queued(first))
        await _settle(storage, lease, group, *await _due(storage, lease, group))
        assert await _keys(storage, group) == {"k"}
        await _park(storage, group, queued(second))
        rows = await _due(storage, lease, group)
        assert [row.message for row in rows] == [second]
        await _settle(storage, lease, group, *rows)
        assert await _due(storage, lease, group) == []
        assert await _keys(storage, group) == frozenset()

    @pytest.mark.parametrize("empty", [40, 2500])
    async def test_many_empty_keys_do_not_hide_what_is_due(
        self, storage: Storage, empty: int
    ) -> None:
        group, lease = await _group(storage)
        rows = [queued(some_message(key=f"k{number}")) for number in range(empty)]
        await _park(storage, group, *rows)
        await _settle(storage, lease, group, *rows)
        await _park(storage, group, queued(some_message(7, key="last")))
        async with storage.transaction() as tx:
            found = await tx.parking.due(lease, group=group, limit=3)
        assert numbers(found) == [7]

    async def test_behind_a_key_is_what_waits_in_order(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        head, *rest = some_messages(30, key="k")
        await _park(storage, group, failed(head), *map(queued, rest))
        await _park(storage, group, queued(some_message(99, key="other")))
        assert numbers(await _behind(storage, lease, "k", group) or ()) == list(range(30))
        assert numbers(await _behind(storage, lease, "k", group, limit=4) or ()) == [0, 1, 2, 3]
        assert not await _behind(storage, lease, "no such key", group)

    async def test_a_closing_round_frees_its_key(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, *map(queued, some_messages(3, key="k")))
        async with storage.transaction() as tx:
            rows = await tx.parking.behind(lease, "k", group=group, limit=20, closing=True)
            assert rows is not None
            await tx.parking.settle(lease, rows, group=group)
        assert await _keys(storage, group) == frozenset()
        assert await _behind(storage, lease, "k", group, closing=True) is None

    async def test_a_closing_round_of_an_empty_key_frees_it(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, queued(some_message(key="k")))
        await _settle(storage, lease, group, *await _due(storage, lease, group))
        async with storage.transaction() as tx:
            rows = await tx.parking.behind(lease, "k", group=group, limit=20, closing=True)
            assert list(rows or ()) == []
            await tx.parking.settle(lease, (), group=group)
        assert await _keys(storage, group) == frozenset()

    async def test_a_closing_round_that_leaves_something_keeps_its_key(
        self, storage: Storage
    ) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, *map(queued, some_messages(3, key="k")))
        async with storage.transaction() as tx:
            rows = await tx.parking.behind(lease, "k", group=group, limit=20, closing=True)
            assert rows is not None
            await tx.parking.settle(lease, rows[:1], group=group)
        assert await _keys(storage, group) == {"k"}
        assert numbers(await _due(storage, lease, group)) == [1, 2]

    async def test_a_closing_round_that_is_rolled_back_frees_nothing(
        self, storage: Storage
    ) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, queued(some_message(key="k")))
        with suppress(LookupError):
            async with storage.transaction() as tx:
                rows = await tx.parking.behind(lease, "k", group=group, limit=20, closing=True)
                await tx.parking.settle(lease, rows or (), group=group)
                raise LookupError
        assert len(await _due(storage, lease, group)) == 1

    async def test_a_lane_that_saw_the_key_held_strands_no_message(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, queued(some_message(0, key="k")))
        await _settle(storage, lease, group, *await _due(storage, lease, group))
        saw_it, frees = asyncio.Event(), asyncio.Event()

        async def lane() -> frozenset[str]:
            async with storage.transaction() as tx:
                message = some_message(1, key="k")
                found = await tx.inbox.receive([message], keys=["k"], group=group)
                saw_it.set()
                await frees.wait()
                await tx.parking.park([queued(message)], group=group)
            return found.held

        async def free() -> frozenset[str]:
            await saw_it.wait()
            frees.set()
            await _due(storage, lease, group)
            return frozenset()

        held, _ = await at_once(lane(), free())
        assert held == {"k"}
        assert numbers(await _due(storage, lease, group)) == [1]

    async def test_a_take_over_never_passes_what_is_written_under_the_lease(
        self, storage: Storage, clock: Clock
    ) -> None:
        group = unique("group")
        lease = await take(storage, f"parked/{group}", ttl=SOON)
        await _park(storage, group, queued(some_message(key="k")))
        await clock.advance(AFTER_SOON)  # it ran out, and nobody has taken it
        wrote, asks, order = asyncio.Event(), asyncio.Event(), list[str]()

        async def hold() -> None:
            async with storage.transaction() as tx:
                (row,) = await tx.parking.due(lease, group=group, limit=10)
                await tx.parking.park([failed(row.message, delay=None)], group=group, lease=lease)
                wrote.set()
                await asks.wait()
                for _ in range(5):  # statements, so that the other comes as far as it can
                    await tx.parking.keys(group=group, limit=10)
                order.append("written")

        async def take_it() -> None:
            await wrote.wait()
            asks.set()
            taken: Sequence[Lease] = ()
            while not taken:
                async with storage.transaction() as tx:
                    taken = await tx.leases.acquire([lease.name], owner="b", ttl=LONG, limit=1)
            order.append("taken")
            assert await _due(storage, taken[0], group) == []

        await at_once(hold(), take_it())
        assert order == ["written", "taken"]
        assert await _keys(storage, group) == {"k"}

    async def test_without_order_nothing_holds_anything(self, storage: Storage) -> None:
        group, lease = await _group(storage)
        first, second, third = some_messages(3)
        await _park(storage, group, failed(first), queued(second))
        async with storage.transaction() as tx:
            found = await tx.inbox.receive([third], keys=[own_key(third)], group=group)
        assert found.held == frozenset()
        assert [row.message for row in await _due(storage, lease, group)] == [second]
        assert await _keys(storage, group) == {own_key(first), own_key(second)}

    async def test_keys_are_those_held_up_to_the_limit(self, storage: Storage) -> None:
        group, _ = await _group(storage)
        rows = [failed(some_message(key=f"k{number}")) for number in range(5)]
        await _park(storage, group, *rows)
        await _park(storage, group + "x", failed(some_message(key="other")))
        everything = {row.key for row in rows}
        assert await _keys(storage, group) == everything
        async with storage.transaction() as tx:
            some = await tx.parking.keys(group=group, limit=2)
        assert len(some) == 2
        assert some < everything

    async def test_what_is_parked_in_a_rolled_back_savepoint_holds_nothing(
        self, storage: Storage
    ) -> None:
        group, lease = await _group(storage)
        async with storage.transaction() as tx:
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.parking.park([queued(some_message(key="k"))], group=group)
                    raise LookupError
            await tx.parking.park([], group=group)
        assert await _due(storage, lease, group) == []
        assert await _keys(storage, group) == frozenset()


async def _group(storage: Storage) -> tuple[str, Lease]:
    group = unique("group")
    return group, await take(storage, f"parked/{group}")


async def _park(storage: Storage, group: str, *rows: Parked, lease: Lease | None = None) -> None:
    async with storage.transaction() as tx:
        await tx.parking.park(rows, group=group, lease=lease)


async def _due(storage: Storage, lease: Lease, group: str) -> list[Parked]:
    async with storage.transaction() as tx:
        return list(await tx.parking.due(lease, group=group, limit=100))


async def _behind(
    storage: Storage,
    lease: Lease,
    key: str,
    group: str,
    *,
    limit: int = 100,
    closing: bool = False,
) -> Sequence[Parked] | None:
    async with storage.transaction() as tx:
        return await tx.parking.behind(lease, key, group=group, limit=limit, closing=closing)


async def _settle(storage: Storage, lease: Lease, group: str, *rows: Parked) -> None:
    async with storage.transaction() as tx:
        await tx.parking.settle(lease, rows, group=group)


async def _keys(storage: Storage, group: str) -> frozenset[str]:
    async with storage.transaction() as tx:
        return await tx.parking.keys(group=group, limit=10_000)
