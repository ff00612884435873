"""Forgets what ended long ago: sagas, inputs that nobody came for, effects; one owner by lease."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from uuid import uuid4

from eventbus.errors import StorageError
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.saga.family import Family
from eventbus.saga.stranding import left_alone
from eventbus.service import pause
from eventbus.storage import Storage

log: logging.Logger = logging.getLogger("eventbus.saga")

FINISHED = timedelta(days=30)  # late answers need the row; a late start would begin a second saga
BATCH = 1000
EVERY_SECONDS = 60.0  # an input that expired becomes a dead letter by then
LEASE = "archive"


class Archive:
    """The housekeeping of sagas, and of participants."""

    def __init__(
        self,
        storage: Storage,
        *,
        families: Mapping[str, Family] = MappingProxyType({}),
        finished: timedelta = FINISHED,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self._storage = storage
        self._families = families
        self._instrumentation = instrumentation
        self._finished = finished
        self._owner = uuid4().hex

    async def run(self, stopping: asyncio.Event) -> None:
        """Say whom this worker leaves alone; then sweep now and then until stopping."""
        await self._say_who_is_left_alone()
        while not await pause(stopping, EVERY_SECONDS):
            try:
                await self.once(stopping)
            except StorageError as error:
                count_unknown(self._instrumentation, error, "archive", "repeated")
                log.warning("the archive of sagas waits for the database: %s", error)

    async def _say_who_is_left_alone(self) -> None:
        if not self._families:
            return
        try:
            async with self._storage.transaction() as tx:
                found = await tx.sagas.in_flight()
        except StorageError as error:
            log.warning("whether open sagas lack a class here is not known: %s", error)
            return
        for told in left_alone(found, self._families):
            log.warning("%s; `eventbus saga check` tells more", told)

    async def once(self, stopping: asyncio.Event) -> int:
        """All that is old, in small transactions; how much went. Nothing if another one does it."""
        ttl = timedelta(seconds=EVERY_SECONDS)
        async with self._storage.transaction() as tx:
            lease = await tx.leases.acquire([LEASE], owner=self._owner, ttl=ttl, limit=1)
        swept = 0
        while lease and not stopping.is_set():
            async with self._storage.transaction() as tx:
                gone = await tx.sagas.sweep(older_than=self._finished, limit=BATCH)
                lease = await tx.leases.renew(lease, ttl=ttl)
            swept += gone
            if gone == 0:
                break
        async with self._storage.transaction() as tx:
            await tx.leases.release(lease)
        return swept
