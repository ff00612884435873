"""Where statements run: on a thread that owns the connection, or inline on the loop."""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from eventbus.errors import StorageError

log = logging.getLogger("eventbus.sqlite")
T = TypeVar("T")


class Worker(Protocol):
    """Runs calls one after the other, in the order in which they were handed over."""

    calls: int

    @property
    def connection(self) -> sqlite3.Connection:
        """Only for what runs in a call."""
        ...

    @property
    def busy_seconds(self) -> float:
        """How long the present call has been running."""
        ...

    async def do(self, call: Callable[..., T], *args: object) -> T:
        """Run it; a cancelled waiter leaves it running, and what follows comes after it."""
        ...

    def certainly(self, call: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Hand it over now; waiting for it cannot be cancelled before it is done."""
        ...

    def post(self, call: Callable[[], None]) -> None:
        """Hand it over; nobody waits, and it must not raise. Nothing happens if all is closed."""
        ...

    def reopen(self) -> None:
        """Replace the connection; only in a call."""
        ...

    async def start(self) -> None:
        """Open the connection."""
        ...

    async def stop(self) -> None:
        """After what was handed over."""
        ...


class InlineWorker:
    """In memory: no thread; the connection outlives `stop`, or the data would be gone."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._closing: weakref.finalize[[], InlineWorker] | None = None
        self.calls = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """The one there is."""
        if self._connection is None:
            raise closed()
        return self._connection

    @property
    def busy_seconds(self) -> float:
        """Nobody can ask while a call runs."""
        return 0.0

    async def do(self, call: Callable[..., T], *args: object) -> T:
        """Run it here and now."""
        self.calls += 1
        return call(*args)

    def certainly(self, call: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Run it here and now: in a future, so that it happens even if nobody waits."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.calls += 1
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def post(self, call: Callable[[], None]) -> None:
        """Run it here and now, also without a loop: an abandoned task rolls back with its end."""
        if self._connection is not None:
            call()

    def reopen(self) -> None:
        """Keep it: another connection would be another database."""

    async def start(self) -> None:
        """Open the database, or find the one of before."""
        if self._connection is None:
            self._connection = self._connect()
            self._closing = weakref.finalize(self, self._connection.close)

    async def stop(self) -> None:
        """Roll back what an abandoned task left open."""
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Forget the data."""
        if self._closing is not None:
            self._closing()
        self._connection = None


class _Certain(asyncio.Future[Any]):
    """A task that is cancelled while it waits for this gets its CancelledError when it is done."""

    def cancel(self, msg: object = None) -> bool:
        return False


_Job = tuple["asyncio.Future[Any] | None", Callable[..., Any], tuple[object, ...]]
_Outcome = tuple["asyncio.Future[Any] | None", Any, BaseException | None]


class ThreadWorker:
    """On a file: a slow disk stops the thread, not the loop.

    One call costs two switches between threads, so callers put into it what belongs together.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._name = name
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._outcomes: deque[_Outcome] = deque()
        self._waking = False
        self._since = 0.0
        self.calls = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """The one of this thread."""
        if self._connection is None:
            raise closed()
        return self._connection

    @property
    def busy_seconds(self) -> float:
        """Since the present call began; 0 between two."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    async def do(self, call: Callable[..., T], *args: object) -> T:
        """Run it on the thread."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._hand_over(future, call, args)
        return await future

    def certainly(self, call: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Run it on the thread, whatever becomes of the caller."""
        future: asyncio.Future[T] = _Certain(loop=self._loop)
        self._hand_over(future, call, args)
        return future

    def post(self, call: Callable[[], None]) -> None:
        """Run it on the thread; closing would roll back too."""
        if self._thread is not None:
            self._jobs.put((None, call, ()))

    def _hand_over(
        self, future: asyncio.Future[Any], call: Callable[..., Any], args: tuple[object, ...]
    ) -> None:
        if self._thread is None:
            raise closed()
        self.calls += 1
        self._jobs.put((future, call, args))

    def reopen(self) -> None:
        """Close and open: what a broken connection believes is worth nothing (X19)."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._connect()

    async def start(self) -> None:
        """Start the thread and open the connection on it."""
        self._loop = asyncio.get_running_loop()
        # daemon: a process that ends without leaving the bus must not hang; SQLite survives kills
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()
        try:
            await self.do(self.reopen)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what was handed over, close the connection, end the thread."""
        if self._thread is None:
            return
        closing = self.certainly(self._close)
        self._jobs.put(None)
        self._thread = None
        await closing

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _work(self) -> None:
        jobs, outcomes = self._jobs, self._outcomes
        while (job := jobs.get()) is not None:
            future, call, args = job
            self._since = time.monotonic()
            try:
                outcomes.append((future, call(*args), None))
            except BaseException as error:  # it is raised where the call came from
                outcomes.append((future, None, error))
            self._since = 0.0
            del job, future, call, args
            if not self._waking:  # several outcomes share one wake-up of the loop
                self._waking = True
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False  # before the loop below: an outcome after it wakes again
        while self._outcomes:
            future, result, error = self._outcomes.popleft()
            if future is None or future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def closed() -> StorageError:
    """The storage was not entered, or left already."""
    return StorageError(
        "EB5010",
        "the storage is not open",
        where="SqliteStorage",
        why="it was not entered yet, or it was left already",
        next="use it inside `async with bus:` or `async with storage:`",
    )
