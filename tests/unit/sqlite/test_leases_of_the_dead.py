"""A process that was killed leaves leases; who has the file's lock next is alone."""

from datetime import timedelta
from pathlib import Path

import pytest

from eventbus.inspection import Place
from eventbus.sqlite import SqliteStorage
from eventbus.storage.leases import Lease

TTL = timedelta(minutes=10)


async def acquire(storage: SqliteStorage) -> Lease:
    async with storage.transaction() as tx:
        taken = await tx.leases.acquire(["outbox/07"], owner="me", ttl=TTL, limit=1)
    return taken[0]


@pytest.mark.parametrize("in_file", [True, False])
async def test_the_next_one_takes_them_at_once_with_a_higher_epoch(
    tmp_path: Path, in_file: bool
) -> None:
    path = str(tmp_path / "bus.db") if in_file else None
    storage = SqliteStorage(path)
    async with storage:
        first = await acquire(storage)
        await Place(storage.inspection, "outbox").change("pause", actor="tests")
    async with SqliteStorage(path) if in_file else storage as again:
        second = await acquire(again)
        async with again.transaction() as tx:
            paused = await tx.leases.owners("paused/outbox/")
    assert second.epoch == first.epoch + 1
    assert paused == 1, "an operator's pause outlives every process"


async def test_a_second_entering_of_one_database_in_memory_frees_nothing() -> None:
    async with SqliteStorage() as storage:
        await acquire(storage)
        async with storage, storage.transaction() as tx:
            assert not await tx.leases.acquire(["outbox/07"], owner="other", ttl=TTL, limit=1)
