"""A hint that there is work (S3): an event in the process, `data_version` for another one."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Collection
from datetime import timedelta
from weakref import WeakKeyDictionary

from eventbus.sqlite.worker import Worker
from eventbus.storage import Work

LOOK_SECONDS = 0.25
_WORKS: tuple[Work, ...] = ("outbox", "parked", "events", "timers")


class Wakeups:
    """Counts hints per kind of work; each waiting task remembers the count it has seen.

    So a hint that comes between a task's read and its wait is not lost, however many tasks wait.
    """

    def __init__(self, worker: Worker, *, shared: bool) -> None:
        self._worker = worker
        self._shared = shared
        self._hints: dict[Work, int] = dict.fromkeys(_WORKS, 0)
        self._seen: WeakKeyDictionary[asyncio.Task[object], dict[Work, int]] = WeakKeyDictionary()
        # in the order in which they came: the seeded loop wakes them in the same one again
        self._waiters: dict[Work, dict[asyncio.Future[None], None]] = {w: {} for w in _WORKS}
        self._version = 0
        self._looked_at = 0.0

    def begin(self) -> None:
        """Of a loop: who waited on another one is gone."""
        self._loop = asyncio.get_running_loop()
        self._looked_at = 0.0
        for waiters in self._waiters.values():
            waiters.clear()

    def give(self, works: Collection[Work]) -> None:
        """There is work of these kinds."""
        for work in works:
            self._hints[work] += 1
            for waiter in self._waiters[work]:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters[work].clear()

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Return at a hint that this task has not seen, or after `at_most`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                while not self._news(work):
                    await self._sleep(work)

    def _news(self, work: Work) -> bool:
        task = asyncio.current_task()
        if task is None:
            return True
        seen = self._seen.setdefault(task, {})
        if seen.get(work, 0) == self._hints[work]:
            return False
        seen[work] = self._hints[work]
        return True

    async def _sleep(self, work: Work) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[work][waiter] = None
        try:
            if not self._shared:
                await waiter
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await waiter
                    return
        finally:
            self._waiters[work].pop(waiter, None)
        await self._look()

    async def _look(self) -> None:
        if self._loop.time() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._loop.time()
        version = await self._worker.do(self._data_version, name="data_version")
        if version != self._version:
            known, self._version = self._version, version
            if known:
                self.give(_WORKS)

    def _data_version(self) -> int:
        # it changes when another connection has committed, never by our own commits
        row: sqlite3.Row = self._worker.connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])
