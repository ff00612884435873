"""How far the log can be read: one task for all who follow it (storage.md 7.5)."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import datetime, timedelta

from eventbus.errors import StorageError
from eventbus.resilience.seldom import SeldomLog
from eventbus.service import end
from eventbus.storage import Storage
from eventbus.storage.events import Position, ReadBound

log: logging.Logger = logging.getLogger("eventbus.sourcing")

SHORTEST_SECONDS, LONGEST_SECONDS = 0.005, 0.25


class Tail:
    """Asks for the bound while somebody follows: often while it moves, at a hint, else seldom.

    Args:
        storage: entered while somebody follows.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._followers = 0
        self._lines = SeldomLog(log)
        self._task: asyncio.Task[None] | None = None
        self._found: ReadBound | None = None
        self._news = asyncio.Event()
        self._closed = False

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """The bound is asked for inside the block; by one task however many blocks there are."""
        self._followers += 1
        if self._task is None:  # in a context of its own: the first follower may hold something
            self._task = asyncio.create_task(self._run(), name="tail:0", context=Context())
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                await self._end()

    async def beyond(
        self, position: Position | None, server: datetime | None = None
    ) -> ReadBound | None:
        """The bound once it is above a position, or of another server; None: the tail is closed."""
        while not self._closed:
            found = self._found
            if found is not None and (
                position is None or found.bound > position or found.server_started != server
            ):
                return found
            await self._news.wait()
        return None

    async def close(self) -> None:
        """Let everybody who follows know that it is over."""
        self._closed = True
        self._tell()
        await self._end()

    def open(self) -> None:
        """Begin again, after a close."""
        self._closed = False

    async def _end(self) -> None:
        task, self._task, self._found = self._task, None, None
        if task is not None:
            await end([task])

    async def _run(self) -> None:
        seconds = SHORTEST_SECONDS
        while True:
            try:
                moved = await self._look()
            except Exception as error:  # whatever it is, who follows goes on where it was
                kind = error.code if isinstance(error, StorageError) else type(error).__name__
                self._lines.tell(
                    kind,
                    "the log cannot be followed for a while: %s",
                    error,
                    trace=not isinstance(error, StorageError),
                )
                moved, seconds = False, LONGEST_SECONDS
                await asyncio.sleep(seconds)
                continue
            self._lines.over("the log is followed again")
            seconds = SHORTEST_SECONDS if moved else min(seconds * 2, LONGEST_SECONDS)
            await self._storage.wait("events", at_most=timedelta(seconds=seconds))

    async def _look(self) -> bool:
        found = await self._storage.read_bound()
        before, self._found = self._found, found
        moved = (
            before is None
            or before.bound != found.bound
            or before.server_started != found.server_started
        )
        if moved:
            self._tell()
        return moved

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
