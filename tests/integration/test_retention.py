"""Forgetting what nobody needs: one process of all at a time, and one that can."""

import asyncio
from datetime import timedelta

import pytest

from eventbus.errors import StorageError
from eventbus.pubsub.retention import Retention
from eventbus.sqlite import SqliteStorage


async def test_who_lacks_the_right_leaves_it_to_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pruned: list[str] = []

    async def refused(**_: object) -> int:
        pruned.append("refused")
        raise StorageError("EB5012", "no right", where="prune", why="not the owner", next="GRANT")

    async def done(**_: object) -> int:
        pruned.append("done")
        return 0

    async with SqliteStorage() as storage:
        await storage.upgrade()
        one, other, late = (Retention(storage) for _ in range(3))
        monkeypatch.setattr(storage, "prune", refused)
        with pytest.raises(StorageError, match="EB5012"):
            await one._once(asyncio.Event())
        monkeypatch.setattr(storage, "prune", done)
        await other._once(asyncio.Event())
        await late._once(asyncio.Event())  # it is the other one's for ten minutes
        assert pruned == ["refused", "done"]
        async with storage.transaction() as tx:
            names, ttl = ["retention"], timedelta(seconds=1)
            assert not await tx.leases.acquire(names, owner="me", ttl=ttl, limit=1)
