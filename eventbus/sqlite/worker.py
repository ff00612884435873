"""Where statements run: what may wait on a thread, what is quick inline on the loop."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from eventbus.errors import StorageError

QUICK_SECONDS = 0.005  # as long as another thread may keep the interpreter from the loop anyway
T = TypeVar("T")


class Worker(Protocol):
    """Runs calls one after the other, in the order in which they were handed over."""

    hops: int  # calls that went to another thread

    @property
    def connection(self) -> sqlite3.Connection:
        """Only for what runs in a call."""
        ...

    @property
    def busy_seconds(self) -> float:
        """How long the present call has been running."""
        ...

    async def do(self, call: Callable[..., T], *args: object, name: str | None = None) -> T:
        """Run it; a cancelled waiter leaves it running, and what follows comes after it.

        Args:
            call: what to run.
            args: its arguments.
            name: of calls that may run inline as long as those of this name are quick.
        """
        ...

    def certainly(self, call: Callable[[], T], *, name: str | None = None) -> asyncio.Future[T]:
        """Hand it over now; waiting for it cannot be cancelled before it is done."""
        ...

    def post(self, call: Callable[[], None]) -> None:
        """Hand it over; nobody waits, and it must not raise. Nothing happens if all is closed."""
        ...

    def reopen(self) -> None:
        """Replace the connection; only in a call."""
        ...

    def mend(self) -> None:
        """Open it again if `reopen` could not; only in a call."""
        ...

    async def start(self) -> None:
        """Open the connection."""
        ...

    async def stop(self) -> None:
        """After what was handed over."""
        ...


class _Certain(asyncio.Future[Any]):
    """A task that is cancelled while it waits for this gets its CancelledError when it is done."""

    def cancel(self, msg: object = None) -> bool:
        return False


def done(call: Callable[[], T]) -> asyncio.Future[T]:
    """A future of what the call says, run at once."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
    return future


_Job = tuple["asyncio.Future[Any] | None", Callable[..., Any], tuple[object, ...], str | None]
_Outcome = tuple["asyncio.Future[Any] | None", Any, BaseException | None]


class ThreadWorker:
    """On a file: a disk that is forced, a lock, a slow query stop the thread, not the loop.

    A switch to the thread and back costs more than most statements, and a thread beside a busy
    loop waits for the interpreter at each of them. Measured, outbox, relay, inbox and one insert
    per message: 69 us of CPU with every call on the thread, the last two alone 450 us beside a busy
    loop; 30 us and 25 us as it is. So calls with a name run inline while the thread is idle and
    calls of their name were quick. Those that were not, twice running (once may be a garbage
    collection) or by far, go to the thread for a hundred times as long as they took: a slow
    statement holds the loop for about a hundredth of the time. What was never seen, or is slow by
    nature, starts on the thread.
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
        self._slow_until: dict[str, float] = {}  # by name; one that is missing was never seen
        self._suspects: set[str] = set()
        self._finished = 0
        self.hops: int = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """For one call at a time, on whichever thread it runs."""
        if self._connection is None:
            raise closed()
        return self._connection

    @property
    def busy_seconds(self) -> float:
        """Since the present call on the thread began; 0 between two."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    async def do(self, call: Callable[..., T], *args: object, name: str | None = None) -> T:
        """Run it inline if it promises to be quick, else on the thread."""
        if name is None or not self._inline(name):
            future: asyncio.Future[T] = self._loop.create_future()
            self._hand_over(future, call, args, name)
            return await future
        started = time.monotonic()
        try:
            return call(*args)
        finally:
            self._learn(name, time.monotonic() - started, certain=False)

    def certainly(self, call: Callable[[], T], *, name: str | None = None) -> asyncio.Future[T]:
        """As `do`, whatever becomes of the caller."""
        if name is not None and self._inline(name):
            return done(call)
        future: asyncio.Future[T] = _Certain(loop=self._loop)
        self._hand_over(future, call, (), name)
        return future

    def post(self, call: Callable[[], None]) -> None:
        """Run it inline if nothing is before it, else on the thread; closing rolls back too."""
        if self._thread is None:
            return
        if self._idle():
            call()
        else:
            self._hand_over(None, call, (), None)

    def _idle(self) -> bool:
        return self.hops == self._finished

    def _inline(self, name: str) -> bool:
        if len(self._slow_until) > 1000:  # statements that are built with their values in them
            self._slow_until.clear()
            self._suspects.clear()
        until = self._slow_until.get(name)
        return until is not None and self._idle() and (not until or time.monotonic() > until)

    def _learn(self, name: str, seconds: float, *, certain: bool) -> None:
        if seconds <= QUICK_SECONDS:
            self._slow_until.setdefault(name, 0.0)
            self._suspects.discard(name)
            return
        if certain or name in self._suspects or seconds > 40 * QUICK_SECONDS:
            self._slow_until[name] = time.monotonic() + 1 + 100 * seconds
        self._suspects.add(name)

    def _hand_over(
        self,
        future: asyncio.Future[Any] | None,
        call: Callable[..., Any],
        args: tuple[object, ...],
        name: str | None,
    ) -> None:
        if self._thread is None:
            raise closed()
        self.hops += 1
        self._jobs.put((future, call, args, name))

    def reopen(self) -> None:
        """Close and open: what a broken connection believes is worth nothing (X19)."""
        broken, self._connection = self._connection, None
        if broken is not None:
            with contextlib.suppress(sqlite3.Error):
                broken.close()
        self._connection = self._connect()

    def mend(self) -> None:
        """A disk that failed may be back."""
        if self._connection is None:
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
        while (job := self._jobs.get()) is not None:
            future, call, args, name = job
            outcome = self._outcome_of(future, call, args, name)
            self._finished += 1
            self._outcomes.append(outcome)
            del job, future, call, args, outcome  # or they live until the next call
            if not self._waking:  # several outcomes share one wake-up of the loop
                self._waking = True
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._deliver)

    def _outcome_of(
        self,
        future: asyncio.Future[Any] | None,
        call: Callable[..., Any],
        args: tuple[object, ...],
        name: str | None,
    ) -> _Outcome:
        self._since = time.monotonic()
        started = time.thread_time()  # without what it waited for the interpreter or a processor
        try:
            return future, call(*args), None
        except BaseException as error:  # it is raised where the call came from
            return future, None, error
        finally:
            if name is not None:
                self._learn(name, time.thread_time() - started, certain=True)
            self._since = 0.0

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
