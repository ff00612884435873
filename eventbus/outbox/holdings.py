"""The partitions that a relay holds: leased, renewed, shared fairly with the other relays."""

import asyncio
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from eventbus.outbox.partitions import fair_share, surplus, wanted
from eventbus.storage import Storage
from eventbus.storage.leases import Lease

TTL = timedelta(seconds=10)
RENEW_SECONDS = TTL.total_seconds() / 3
LOOK_SECONDS = 1.0  # while nothing is held


class Holdings:
    """`leases` are ours until renewing says otherwise; every write carries their epochs."""

    def __init__(self, storage: Storage) -> None:
        self.leases: Sequence[Lease] = ()
        self.paused: bool = False
        self._storage = storage
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._presence: Sequence[Lease] = ()
        self._renew_at = 0.0

    async def hold(self) -> bool:
        """Renew at a third of the ttl; take up to the fair share, give back what is above it.

        Returns:
            True if partitions were taken that were not held a moment ago.
        """
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return False
        taken: Sequence[Lease] = ()
        async with self._storage.transaction() as tx:
            self._presence = await tx.leases.renew(self._presence, ttl=TTL)
            if not self._presence:
                self._presence = await tx.leases.acquire(
                    [f"relay/{self._owner}"], owner=self._owner, ttl=TTL, limit=1
                )
            relays = await tx.leases.owners("relay/")
            self.paused = await tx.leases.owners("paused/outbox/") > 0
            held = await tx.leases.renew(self.leases, ttl=TTL) if self.leases else ()
            extra = surplus(held, relays)
            if extra:
                await tx.leases.release(extra)
                held = held[: fair_share(relays)]
            names, more = wanted(held, relays)
            if more:
                taken = await tx.leases.acquire(names, owner=self._owner, ttl=TTL, limit=more)
        self.leases = [*held, *taken]
        self._renew_at = now + (RENEW_SECONDS if self.leases else LOOK_SECONDS)
        return bool(taken)

    def doubt(self) -> None:
        """A write under these leases changed less than it should: renew before anything else."""
        self._renew_at = 0.0

    @property
    def all(self) -> Sequence[Lease]:
        """What is to be released in the end."""
        return [*self.leases, *self._presence]

    def released(self) -> None:
        """They are free."""
        self.leases = self._presence = ()
        self._renew_at = 0.0
