"""One owner per name, on the database's clock."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from eventbus.storage import Storage
from eventbus.storage.leases import Lease
from eventbus.testing.conformance.samples import (
    AFTER_SOON,
    LONG,
    SOON,
    Clock,
    at_once,
    take,
    take_over,
    unique,
)


class LeaseSuite:
    """Subclass it with the fixtures `storage`, an entered storage, and `clock`, its time."""

    async def test_a_name_has_one_owner(self, storage: Storage) -> None:
        name = unique("name")
        lease = await take(storage, name, owner="a")
        assert (lease.name, lease.owner) == (name, "a")
        assert await _acquire(storage, name, owner="b") == []

    async def test_who_holds_a_name_does_not_get_it_again(self, storage: Storage) -> None:
        lease = await take(storage, unique("name"), owner="a")
        assert await _acquire(storage, lease.name, owner="a") == []

    async def test_it_takes_what_is_free_up_to_the_limit(self, storage: Storage) -> None:
        names = [unique("name") for _ in range(6)]
        await take(storage, names[0])
        first = await _acquire(storage, *names, owner="a", limit=2)
        rest = await _acquire(storage, *names, owner="b", limit=10)
        assert (len(first), len(rest)) == (2, 3)
        assert {lease.name for lease in (*first, *rest)} == set(names[1:])

    async def test_no_names_no_leases(self, storage: Storage) -> None:
        assert await _acquire(storage, owner="a") == []
        async with storage.transaction() as tx:
            assert list(await tx.leases.renew([], ttl=LONG)) == []
            await tx.leases.release([])

    async def test_a_lease_runs_out_and_the_epoch_rises(
        self, storage: Storage, clock: Clock
    ) -> None:
        lost = await take(storage, unique("name"), owner="a", ttl=SOON)
        assert await _acquire(storage, lost.name, owner="b") == []
        await clock.advance(AFTER_SOON)
        taken = await take(storage, lost.name, owner="b")
        assert taken.epoch > lost.epoch

    async def test_after_a_loss_renewing_fails_and_harms_nobody(
        self, storage: Storage, clock: Clock
    ) -> None:
        lost = await take(storage, unique("name"), owner="a", ttl=SOON)
        await clock.advance(AFTER_SOON)
        taken = await take(storage, lost.name, owner="b")
        assert await _renew(storage, lost) == []
        assert await _renew(storage, taken) == [taken]

    async def test_after_a_loss_releasing_changes_nothing(
        self, storage: Storage, clock: Clock
    ) -> None:
        lost = await take(storage, unique("name"), owner="a", ttl=SOON)
        await clock.advance(AFTER_SOON)
        taken = await take(storage, lost.name, owner="b")
        async with storage.transaction() as tx:
            await tx.leases.release([lost])
        assert await _acquire(storage, lost.name, owner="c") == []
        assert await _renew(storage, taken) == [taken]

    async def test_renewing_extends(self, storage: Storage, clock: Clock) -> None:
        lease = await take(storage, unique("name"), owner="a", ttl=SOON)
        assert await _renew(storage, lease) == [lease]
        await clock.advance(AFTER_SOON)
        assert await _acquire(storage, lease.name, owner="b") == []

    async def test_renewing_some_that_are_lost_returns_the_others(self, storage: Storage) -> None:
        kept, lost = await take(storage, unique("name")), await take(storage, unique("name"))
        await take_over(storage, lost)
        assert await _renew(storage, lost, kept) == [kept]

    async def test_a_released_name_is_free_and_its_epoch_still_rises(
        self, storage: Storage
    ) -> None:
        first = await take(storage, unique("name"), owner="a")
        async with storage.transaction() as tx:
            await tx.leases.release([first])
        again = await take(storage, first.name, owner="a")
        assert again.epoch > first.epoch
        assert await _renew(storage, first) == []

    async def test_owners_are_counted_while_they_hold(self, storage: Storage, clock: Clock) -> None:
        prefix = unique("relay")
        short = await take(storage, f"{prefix}/a", ttl=SOON)
        long = await take(storage, f"{prefix}/b")
        assert await _owners(storage, prefix) == 2
        await clock.advance(AFTER_SOON)
        assert await _owners(storage, prefix) == 1
        async with storage.transaction() as tx:
            await tx.leases.release([short, long])
        assert await _owners(storage, prefix) == 0

    @pytest.mark.parametrize("other", ["ab", "A", "a%", "%", "a_", "_"])
    async def test_names_with_a_common_prefix_stay_apart(
        self, storage: Storage, other: str
    ) -> None:
        place = unique("paused/group")
        await take(storage, f"{place}/a/")
        assert await _owners(storage, f"{place}/{other}/") == 0
        await take(storage, f"{place}/{other}/")
        assert await _owners(storage, f"{place}/a/") == 1
        assert await _owners(storage, f"{place}/{other}/") == 1
        assert await _owners(storage, f"{place}/") == 2

    async def test_what_was_acquired_in_a_rolled_back_savepoint_is_free(
        self, storage: Storage
    ) -> None:
        name = unique("name")
        async with storage.transaction() as tx:
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.leases.acquire([name], owner="a", ttl=LONG, limit=1)
                    raise LookupError
            assert await tx.leases.owners(name) == 0
        await take(storage, name, owner="b")

    async def test_who_comes_at_once_shares_without_overlap(self, storage: Storage) -> None:
        names = [unique("name") for _ in range(20)]
        shares = await at_once(
            *(_acquire(storage, *names, owner=f"owner{n}", limit=5) for n in range(8))
        )
        taken = [lease.name for share in shares for lease in share]
        assert len(taken) == len(set(taken))
        while rest := await _acquire(storage, *names, owner="last", limit=5):
            taken += [lease.name for lease in rest]
        assert sorted(taken) == sorted(names)


async def _acquire(
    storage: Storage, *names: str, owner: str, ttl: timedelta = LONG, limit: int = 10
) -> list[Lease]:
    async with storage.transaction() as tx:
        return list(await tx.leases.acquire(names, owner=owner, ttl=ttl, limit=limit))


async def _renew(storage: Storage, *leases: Lease) -> Sequence[Lease]:
    async with storage.transaction() as tx:
        return list(await tx.leases.renew(leases, ttl=LONG))


async def _owners(storage: Storage, prefix: str) -> int:
    async with storage.transaction() as tx:
        return await tx.leases.owners(prefix)
