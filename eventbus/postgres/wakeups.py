"""Hints (S3): an event in the process, one coalesced NOTIFY on a connection of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from weakref import WeakKeyDictionary

from eventbus.errors import StorageError
from eventbus.postgres.failures import FAILURES
from eventbus.postgres.pools import Connection, Pools
from eventbus.resilience.seldom import SeldomLog
from eventbus.service import end, pause
from eventbus.storage import Work

log: logging.Logger = logging.getLogger("eventbus.postgres")

WORKS: tuple[Work, ...] = ("outbox", "parked", "events", "timers")
NOTIFY_EVERY_SECONDS = 0.02
CHECK_EVERY_SECONDS = 10.0
AGAIN_SECONDS = 1.0

Seen = dict[Work, int]
_FAILURES: tuple[type[Exception], ...] = (StorageError, *FAILURES)


class Wakeups:
    """Counts hints per kind of work; each waiting task remembers the count it has seen.

    So a hint that comes between a task's read and its wait is not lost, however many tasks wait.
    Both directions between processes may miss: polling is the truth.
    """

    def __init__(self, pools: Pools, schema: str) -> None:
        self._pools = pools
        self._channels: dict[str, Work] = {f"{schema}_{work}": work for work in WORKS}
        self._hints: dict[Work, int] = dict.fromkeys(WORKS, 0)
        self._seen: WeakKeyDictionary[asyncio.Task[object], Seen] = WeakKeyDictionary()
        self._untold: set[Work] = set()
        self._teller = 0  # the backend of our own notifications
        self._tasks: list[asyncio.Task[None]] = []
        self._fresh()

    def _fresh(self) -> None:
        """An event is of the loop that waited for it; a storage is entered in one after another."""
        self._news = {work: asyncio.Event() for work in WORKS}
        self._to_tell = asyncio.Event()
        self._stopping = asyncio.Event()
        self.listening: asyncio.Event = asyncio.Event()  # other processes are heard

    def start(self) -> None:
        """Listen and notify; behind a pooler in transaction mode only within the process."""
        self._fresh()
        if not self._pools.config.pgbouncer:
            self._tasks = [
                asyncio.create_task(self._keep(self._listen), name="listen:postgres"),
                asyncio.create_task(self._keep(self._tell), name="notify:postgres"),
            ]

    async def stop(self) -> None:
        """End both connections."""
        self._stopping.set()
        tasks, self._tasks = self._tasks, []
        await end(tasks, seconds=self._pools.config.connect_seconds + 1.0)

    def hint(self, work: Work) -> None:
        """Something of a kind was committed here."""
        self._wake(work)
        self._untold.add(work)
        self._to_tell.set()

    async def wait(self, work: Work, at_most: timedelta) -> None:
        """Return at a hint that this task has not seen, or after `at_most`."""
        task = asyncio.current_task()
        seen = self._seen.setdefault(task, {}) if task is not None else {}
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                while seen.get(work, 0) == self._hints[work]:
                    await self._news[work].wait()
        seen[work] = self._hints[work]

    def _wake(self, work: Work) -> None:
        self._hints[work] += 1
        self._news[work].set()  # whoever waits now wakes up;
        self._news[work] = asyncio.Event()  # who comes later compares counts

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        lines, text = SeldomLog(log), "wake-ups from other processes pause, polling goes on: %s"
        while not self._stopping.is_set():
            try:
                await work()
            except _FAILURES as error:
                lines.tell("known", text, error, level=logging.INFO)
            except Exception as error:  # a hint is never worth its task: whatever it was, again
                lines.tell("unknown", text, error, level=logging.ERROR, trace=True)
            self.listening.clear()
            await pause(self._stopping, AGAIN_SECONDS)

    async def _listen(self) -> None:
        connection = await self._pools.connect("listen")
        ended = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            for channel in self._channels:
                await connection.add_listener(channel, self._heard)
            self.listening.set()
            for work in WORKS:
                self._wake(work)  # what was told while nobody listened
            while not await pause(ended, CHECK_EVERY_SECONDS):
                await connection.execute("SELECT 1")  # a silent death is found (X8)
        finally:
            connection.terminate()

    def _heard(self, connection: Connection, pid: int, channel: str, payload: object) -> None:
        if pid != self._teller:  # our own tasks know already
            self._wake(self._channels[channel])

    async def _tell(self) -> None:
        connection = await self._pools.connect("notify")
        names = {work: channel for channel, work in self._channels.items()}
        self._teller = connection.get_server_pid()
        try:
            while True:
                await self._to_tell.wait()
                self._to_tell.clear()
                works, self._untold = sorted(self._untold), set()
                await connection.execute("; ".join(f"NOTIFY {names[work]}" for work in works))
                await asyncio.sleep(NOTIFY_EVERY_SECONDS)
        finally:
            connection.terminate()
