"""Interleavings that only several writers have, step by step; mutants must fail them.

Two storages of one schema stand for two processes, so that both can have a transaction open.
"""

import asyncio
from datetime import timedelta
from typing import Any

from eventbus.postgres import PostgresStorage
from eventbus.storage.leases import Lease
from eventbus.testing.conformance.samples import (
    LONG,
    failed,
    numbers,
    queued,
    some_message,
    some_messages,
    take,
    unique,
)


async def waiting(storage: PostgresStorage, *, for_what: str = "transactionid") -> None:
    """Until somebody in this database waits for a lock of another transaction."""
    async with asyncio.timeout(30), storage.pools.connecting() as connection:
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE NOT l.granted AND l.locktype = $1 AND a.datname = current_database()",
            for_what,
        ):
            pass


async def done_or_waiting(
    task: "asyncio.Task[Any]", storage: PostgresStorage, *, for_what: str = "transactionid"
) -> None:
    """Until it is done, or waits for a lock."""
    lock = asyncio.create_task(waiting(storage, for_what=for_what), name="lock:1")
    await asyncio.wait([task, lock], return_when=asyncio.FIRST_COMPLETED)
    lock.cancel()
    await asyncio.wait([lock])


async def _emptied(storage: PostgresStorage, group: str) -> Lease:
    """The key "k" is held and nothing waits behind it; the lease of the group's parking."""
    lease = await take(storage, f"parked/{group}")
    message = some_message(0, key="k")
    async with storage.transaction() as tx:
        await tx.parking.park([queued(message)], group=group)
        await tx.parking.settle(lease, [queued(message)], group=group)
    return lease


class Races:
    """Called with two entered storages of one schema, nothing in it."""

    async def keys_parked_by_whom_one_waited_for_are_held(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, (first, second) = unique("group"), some_messages(2, key="k")

        async def receive() -> Any:
            async with other.transaction() as tx:
                return await tx.inbox.receive([first, second], keys=["k", "k"], group=group)

        async with one.transaction() as tx:
            await tx.inbox.receive([first], keys=["k"], group=group)
            receiving = asyncio.create_task(receive(), name="receive:1")
            await waiting(one)
            await tx.parking.park([failed(first)], group=group)
        found = await receiving
        assert found.new == {second.identity}
        assert found.held == {"k"}

    async def a_key_row_that_was_there_is_locked_by_who_parks(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, message, before = unique("group"), some_message(1, key="k"), some_message(0, key="k")
        lease = await take(other, f"parked/{group}")
        async with one.transaction() as lane:
            await lane.inbox.receive([message], keys=["k"], group=group)
            async with other.transaction() as tx:
                await tx.parking.park([queued(before)], group=group)
                await tx.parking.settle(lease, [queued(before)], group=group)
            await lane.parking.park([queued(message)], group=group)
            async with other.transaction() as tx:  # the key is empty for all that it can see
                assert await tx.parking.due(lease, group=group, limit=10) == []
        async with other.transaction() as tx:
            assert numbers(await tx.parking.due(lease, group=group, limit=10)) == [1]

    async def a_key_that_a_lane_saw_held_stays_held_for_all(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, (first, second) = unique("group"), some_messages(2, key="k")
        lease = await _emptied(other, group)
        async with one.transaction() as lane:
            assert (await lane.inbox.receive([first], keys=["k"], group=group)).held == {"k"}
            async with other.transaction() as tx:
                assert await tx.parking.due(lease, group=group, limit=10) == []
            async with other.transaction() as tx:
                found = await tx.inbox.receive([second], keys=["k"], group=group)
                assert found.held == {"k"}, "or it would run before the one that queues"
            await lane.parking.park([queued(first)], group=group)

    async def who_frees_a_key_waits_and_looks_again(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, message = unique("group"), some_message(1, key="k")
        lease = await _emptied(other, group)

        async def free() -> None:
            async with other.transaction() as tx:
                await tx.parking.due(lease, group=group, limit=10)

        async with one.transaction() as lane:
            await lane.inbox.receive([message], keys=["k"], group=group)
            freeing = asyncio.create_task(free(), name="free:1")
            await done_or_waiting(freeing, one)
            await lane.parking.park([queued(message)], group=group)
        await freeing
        async with one.transaction() as tx:
            assert numbers(await tx.parking.due(lease, group=group, limit=10)) == [1]

    async def nobody_takes_over_before_what_is_written_under_the_lease_is_committed(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, message = unique("group"), some_message(key="k")
        lease = await take(one, f"parked/{group}", ttl=timedelta())
        for write in ("park", "settle"):
            async with one.transaction() as tx:
                if write == "park":
                    await tx.parking.park([failed(message)], group=group, lease=lease)
                else:
                    await tx.parking.settle(lease, [queued(message)], group=group)
                async with other.transaction() as rival:
                    names = [lease.name]
                    taken = await rival.leases.acquire(names, owner="b", ttl=LONG, limit=1)
                    assert taken == []

    async def who_acquires_names_of_which_one_is_just_being_taken_gets_the_rest_at_once(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        taken, new = unique("lease"), unique("lease")
        await take(one, taken, ttl=timedelta())
        async with one.transaction() as tx:
            assert await tx.leases.acquire([taken], owner="a", ttl=LONG, limit=1)
            async with other.transaction() as rival:
                acquiring = asyncio.create_task(
                    rival.leases.acquire([taken, new], owner="b", ttl=LONG, limit=2),
                    name="acquire:1",
                )
                await done_or_waiting(acquiring, one)
                assert acquiring.done(), "two that hold rows and wait for each other's are stuck"
                assert [lease.name for lease in await acquiring] == [new]

    async def the_lock_of_a_closing_round_leaves_handlers_their_own_time_out(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group = unique("group")
        lease = await _emptied(other, group)
        async with one.transaction() as tx:
            rows = await tx.parking.behind(lease, "k", group=group, limit=9, closing=True)
            assert rows == []
            timeout = await tx.sql.fetch("SELECT current_setting('lock_timeout') AS t")
        assert timeout[0]["t"] == "5s"

    async def a_lane_with_the_key_and_a_closing_round_never_meet(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, (first, second) = unique("group"), some_messages(2, key="k")
        lease = await take(other, f"parked/{group}")
        async with one.transaction() as tx:
            await tx.parking.park([queued(first)], group=group)

        async def close() -> Any:
            async with other.transaction() as tx:
                rows = await tx.parking.behind(lease, "k", group=group, limit=20, closing=True)
                if rows is not None:
                    await tx.parking.settle(lease, rows, group=group)
                return rows

        async with one.transaction() as lane:
            found = await lane.inbox.receive([second], keys=["k"], group=group)
            assert found.held == {"k"}
            closing = asyncio.create_task(close(), name="close:1")
            await waiting(one)
            await lane.parking.park([queued(second)], group=group)
        assert numbers(await closing or ()) == [0, 1]
        async with one.transaction() as tx:
            assert await tx.parking.keys(group=group, limit=9) == frozenset()

    async def a_closing_round_that_finds_the_key_busy_gives_up_and_costs_nothing(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        group, message = unique("group"), some_message(key="k")
        lease = await take(other, f"parked/{group}")
        async with one.transaction() as tx:
            await tx.parking.park([queued(message)], group=group)
        async with one.transaction() as lane:
            await lane.inbox.receive([some_message(key="k")], keys=["k"], group=group)
            async with other.transaction() as tx:
                rows = await tx.parking.behind(lease, "k", group=group, limit=9, closing=True)
                assert rows is None
                await tx.inbox.count([message], group=group)

    async def an_operator_waits_for_the_lane_that_has_the_key(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        from eventbus.inspection import Selection

        group, (first, second) = unique("group"), some_messages(2, key="k")
        lease = await take(other, f"parked/{group}")
        async with one.transaction() as tx:
            await tx.parking.park([failed(first, delay=None)], group=group)
        what = Selection(place="dead-letter", group=group)
        async with one.transaction() as lane:
            await lane.inbox.receive([second], keys=["k"], group=group)
            discarding = asyncio.create_task(
                other.inspection.change("discard", what, actor="ops"), name="discard:1"
            )
            await waiting(one)
            await lane.parking.park([queued(second)], group=group)
        assert await discarding == 1
        async with other.transaction() as tx:
            assert numbers(await tx.parking.due(lease, group=group, limit=9)) == [1]


RACES = [name for name in vars(Races) if not name.startswith("_")]
