"""The shards that a worker holds: leased, renewed, shared fairly with the other workers."""

import asyncio
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from eventbus.sourcing.definition import Definition
from eventbus.sourcing.shard import Shard, lease_name, lease_prefix, loaded
from eventbus.storage import Storage, Transaction
from eventbus.storage.leases import Lease
from eventbus.storage.projections import ProjectionVersion

TTL = timedelta(seconds=10)
RENEW_SECONDS = TTL.total_seconds() / 3
LOOK_SECONDS = 1.0  # while nothing is held


class Holdings:
    """Shards are ours until renewing says otherwise; every write carries their epochs."""

    def __init__(self, storage: Storage, definition: Definition) -> None:
        self.shards: list[Shard] = []
        self.paused: bool = False
        self.sure: bool = False  # of what is held: nothing was refused since
        self._storage = storage
        self._definition = definition
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._leases: list[Lease] = []
        self._presence: Sequence[Lease] = ()
        self._renew_at = 0.0

    async def hold(self, version: ProjectionVersion) -> bool:
        """Renew at a third of the ttl; take up to the fair share, give back what is above it.

        Returns:
            False: another version is active, by a switch or a rollback.

        Raises:
            StorageError: EB5202, a checkpoint is of other code, or of another database.
        """
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return True
        async with self._storage.transaction() as tx:
            if not await is_active(tx, version):
                return False
            prefix = f"paused/projection/{version.name}/"
            paused = await tx.leases.owners(prefix) > 0
            share = await self._share(tx, version)
            leases = await self._renewed(tx, version)
            if len(leases) > share:
                await tx.leases.release(leases[share:])
                leases = leases[:share]
            elif len(leases) < share:
                leases += await self._taken(tx, version, leases, share - len(leases))
            self._leases = [*{one.name: one for one in (*self._leases, *leases)}.values()]
            # from here on they may be ours, whatever becomes of the commit: renewing will tell
            known = {shard.lease.name: shard for shard in self.shards}
            shards = [
                known.get(lease.name) or await loaded(tx, self._definition, version, lease)
                for lease in leases
            ]
        self.shards, self._leases, self.paused, self.sure = shards, leases, paused, True
        self._renew_at = now + (RENEW_SECONDS if leases else LOOK_SECONDS)
        return True

    async def are_all_taken(self, tx: Transaction, version: ProjectionVersion) -> bool:
        """Whether each shard has a worker: this one, or another."""
        return await tx.leases.owners(lease_prefix(version)) >= version.shards

    def doubt(self) -> None:
        """Something was refused: the leases are renewed, and what they guard is read anew."""
        self.shards, self.sure = [], False
        self._renew_at = 0.0

    async def give_back(self) -> None:
        """Let others have them at once."""
        leases = [*self._leases, *self._presence]
        self.shards, self._leases, self._presence, self._renew_at = [], [], (), 0.0
        if leases:
            async with self._storage.transaction() as tx:
                await tx.leases.release(leases)

    async def _share(self, tx: Transaction, version: ProjectionVersion) -> int:
        if version.shards == 1:
            return 1
        prefix = f"following/{version.name}/"
        self._presence = await tx.leases.renew(self._presence, ttl=TTL) if self._presence else ()
        if not self._presence:
            self._presence = await tx.leases.acquire(
                [prefix + self._owner], owner=self._owner, ttl=TTL, limit=1
            )
        workers = max(1, await tx.leases.owners(prefix))
        return -(-version.shards // workers)

    async def _renewed(self, tx: Transaction, version: ProjectionVersion) -> list[Lease]:
        """Those still held; what is of another version is given back."""
        if not self._leases:
            return []
        names = {lease_name(version, number) for number in range(version.shards)}
        others = [lease for lease in self._leases if lease.name not in names]
        if others:
            await tx.leases.release(others)
        ours = [lease for lease in self._leases if lease.name in names]
        return list(await tx.leases.renew(ours, ttl=TTL)) if ours else []

    async def _taken(
        self, tx: Transaction, version: ProjectionVersion, held: Sequence[Lease], more: int
    ) -> Sequence[Lease]:
        ours = {lease.name for lease in held}
        names = [lease_name(version, number) for number in range(version.shards)]
        free = [name for name in names if name not in ours]
        return await tx.leases.acquire(free, owner=self._owner, ttl=TTL, limit=more)


async def is_active(tx: Transaction, version: ProjectionVersion) -> bool:
    """Whether it still is the one that serves."""
    versions = await tx.projections.versions(version.name)
    return any(one.version == version.version and one.status == "active" for one in versions)
