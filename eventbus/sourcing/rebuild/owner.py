"""Who rebuilds: one process at a time, by a lease that is renewed while it works."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

from eventbus.errors import StorageError
from eventbus.service import end
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.options import Beat
from eventbus.sourcing.shard import Shard, lease_name, loaded
from eventbus.storage import Storage, Transaction
from eventbus.storage.leases import Lease
from eventbus.storage.projections import ProjectionVersion

log: logging.Logger = logging.getLogger("eventbus.sourcing")
T = TypeVar("T")

TTL = timedelta(seconds=10)
BEAT_SECONDS = 1.0


class Owner:
    """Holds `rebuild/<name>` and the shards of what is built; says how far it is, each second.

    Args:
        storage: entered.
        beat: where the phases write how far they are.
        tell: is told of it.
    """

    def __init__(self, storage: Storage, beat: Beat, tell: Callable[[Beat], None]) -> None:
        self.beat: Beat = beat
        self._storage = storage
        self._tell = tell
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._lease: Lease | None = None
        self._shards: list[Lease] = []
        self._lost = False

    @property
    def name(self) -> str:
        """Of this process."""
        return self._name

    @property
    def lease(self) -> Lease:
        """Held from the beginning to the end."""
        assert self._lease is not None  # noqa: S101 - everything is done within `held`
        return self._lease

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Be the only one.

        Raises:
            ProjectionError: EB6004, somebody else is.
        """
        name = self.beat.name
        async with self._storage.transaction() as tx:
            leases = await tx.leases.acquire(
                [f"rebuild/{name}"], owner=self._name, ttl=TTL, limit=1
            )
            standing = None if leases else await tx.projections.standing(name)
        if not leases:
            how_far = ""
            if standing is not None:
                how_far = f"{standing.phase}, {standing.done:,} / {standing.total:,}"
            raise refusals.busy(name, how_far)
        self._lease = leases[0]
        beating = asyncio.create_task(self._beats(), name=f"rebuild:{name}:beat")
        try:
            yield
        finally:
            await end([beating])
            try:
                async with self._storage.transaction() as tx:
                    await tx.leases.release([self._lease, *self._shards])
            except StorageError as error:
                log.warning("lease rebuild/%s runs out by itself: %s", name, error)

    async def shards(self, definition: Definition, version: ProjectionVersion) -> list[Shard]:
        """The shards of what is built are ours too: nobody else follows it."""
        names = [lease_name(version, number) for number in range(version.shards)]
        async with asyncio.timeout(3 * TTL.total_seconds()):
            while len(self._shards) < len(names):  # those of a rebuild that was killed run out
                free = [name for name in names if name not in {one.name for one in self._shards}]
                async with self._storage.transaction() as tx:
                    self._shards += await tx.leases.acquire(
                        free, owner=self._name, ttl=TTL, limit=len(free)
                    )
                if len(self._shards) < len(names):
                    await asyncio.sleep(BEAT_SECONDS / 2)
        async with self._storage.transaction() as tx:
            return [await loaded(tx, definition, version, one) for one in self._shards]

    async def let_go(self, tx: Transaction) -> None:
        """Workers may follow it, from the end of this transaction on."""
        await tx.leases.release(self._shards)

    async def while_owned(self, work: Awaitable[T]) -> T:
        """The work's answer, unless somebody else took over meanwhile.

        Raises:
            ProjectionError: EB6004.
        """
        result = await work
        if self._lost:
            raise refusals.busy(self.beat.name, "the lease ran out while this process stood still")
        return result

    async def say(self, phase: str, *, done: int = 0, total: int = 0) -> None:
        """So far it is: to whoever listens, and to the database."""
        beat = self.beat
        beat.phase, beat.done, beat.total = phase, done, total
        self._tell(beat)
        async with self._storage.transaction() as tx:
            await self._keep(tx)

    def show(self) -> None:
        """The beat was changed: to whoever listens."""
        self._tell(self.beat)

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._tell(self.beat)
            try:
                async with self._storage.transaction() as tx:
                    if not await tx.leases.renew([self.lease], ttl=TTL):
                        self._lost = True
                        return
                    await self._keep(tx)
                if self._shards:  # apart: a comparison holds them locked, and so nobody takes them
                    async with self._storage.transaction() as tx:
                        await tx.leases.renew(self._shards, ttl=TTL)
            except StorageError as error:
                log.info("rebuild of %s: %s", self.beat.name, error)

    async def _keep(self, tx: Transaction) -> None:
        beat = self.beat
        await tx.projections.progress(
            beat.name, beat.phase, done=beat.done, total=beat.total, rows=beat.rows
        )
