"""Drops what nobody needs any more: one owner by lease, in small batches."""

import asyncio
import logging
from datetime import timedelta
from uuid import uuid4

from eventbus.errors import StorageError
from eventbus.service import pause
from eventbus.storage import Storage

log: logging.Logger = logging.getLogger("eventbus.pubsub")

INBOX = timedelta(days=7)  # after handling: what comes again later is not recognised
BATCH = 10_000
EVERY_SECONDS = 600.0


class Retention:
    """Inbox rows, settled attempts, discarded letters, old audit rows."""

    def __init__(self, storage: Storage, *, inbox: timedelta = INBOX) -> None:
        self._storage = storage
        self._inbox = inbox
        self._owner = uuid4().hex

    async def run(self, stopping: asyncio.Event) -> None:
        """Prune now and then until stopping."""
        while not await pause(stopping, EVERY_SECONDS):
            try:
                await self._once(stopping)
            except StorageError as error:
                log.warning("retention waits for the database: %s", error)

    async def _once(self, stopping: asyncio.Event) -> None:
        ttl = timedelta(seconds=EVERY_SECONDS)
        async with self._storage.transaction() as tx:
            lease = await tx.leases.acquire(["retention"], owner=self._owner, ttl=ttl, limit=1)
        try:
            while lease and not stopping.is_set():
                if await self._storage.prune(inbox=self._inbox, limit=BATCH) == 0:
                    break
        except StorageError:
            async with self._storage.transaction() as tx:
                await tx.leases.release(lease)  # another one may have the right that this one lacks
            raise
