"""Hints (S3): an event in the process, one coalesced NOTIFY on a connection of its own."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from eventbus.errors import StorageError
from eventbus.postgres.failures import FAILURES
from eventbus.postgres.pools import Connection, Pools
from eventbus.service import pause
from eventbus.storage import Work

log = logging.getLogger("eventbus.postgres")

WORKS: tuple[Work, ...] = ("outbox", "parked", "events", "timers")
NOTIFY_EVERY_SECONDS = 0.02
CHECK_EVERY_SECONDS = 10.0


class Wakeups:
    """Both directions may miss: polling is the truth. Never inside a business transaction."""

    def __init__(self, pools: Pools, schema: str) -> None:
        self._pools = pools
        self._channels = {f"{schema}_{work}": work for work in WORKS}
        self._events = {work: asyncio.Event() for work in WORKS}
        self._pending: set[Work] = set()
        self._notify = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Listen and notify; behind a pooler in transaction mode only within the process."""
        self._stopping.clear()
        if not self._pools.config.pgbouncer:
            self._tasks = [
                asyncio.create_task(self._keep(self._listen), name="listen:postgres"),
                asyncio.create_task(self._keep(self._tell), name="notify:postgres"),
            ]

    async def stop(self) -> None:
        """End both connections."""
        self._stopping.set()
        self._notify.set()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hint(self, work: Work) -> None:
        """Something of a kind was committed here."""
        self._events[work].set()
        self._pending.add(work)
        self._notify.set()

    async def wait(self, work: Work, at_most: timedelta) -> None:
        """Until a hint, or that long."""
        event = self._events[work]
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                await event.wait()
        except TimeoutError:
            return
        event.clear()

    async def _keep(self, work: Any) -> None:
        while not self._stopping.is_set():
            try:
                await work()
            except (StorageError, *FAILURES) as error:
                log.info("wake-ups pause, polling goes on: %s", error)
            await pause(self._stopping, 1.0)

    async def _listen(self) -> None:
        connection = await self._pools.connect("listen")
        ended = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            for channel in self._channels:
                await connection.add_listener(channel, self._heard)
            for event in self._events.values():
                event.set()  # what was told while nobody listened
            while not await pause(ended, CHECK_EVERY_SECONDS):
                await connection.execute("SELECT 1")  # a silent death is found (X8)
        finally:
            connection.terminate()

    def _heard(self, connection: Connection, pid: int, channel: str, payload: str) -> None:
        self._events[self._channels[channel]].set()

    async def _tell(self) -> None:
        connection = await self._pools.connect("notify")
        names = {work: channel for channel, work in self._channels.items()}
        try:
            while not self._stopping.is_set():
                await self._notify.wait()
                self._notify.clear()
                pending, self._pending = self._pending, set()
                if pending:
                    notify = "; ".join(f"NOTIFY {names[work]}" for work in sorted(pending))
                    await connection.execute(notify)
                await asyncio.sleep(NOTIFY_EVERY_SECONDS)
        finally:
            connection.terminate()
