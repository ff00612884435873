"""Ends handlers that run longer than their group allows: one watch per group, no timer per call."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

from eventbus.errors import HandlerTimeoutError
from eventbus.message import Message
from eventbus.storage import Storage, Transaction

log: logging.Logger = logging.getLogger("eventbus.pubsub")
T = TypeVar("T")
ZOMBIE_SECONDS = 5.0
LEAVING_SECONDS = 2.0  # less than a supervisor waits for what it cancelled


class Run:
    """What a task is at: set before a handler is called, cleared after."""

    __slots__ = (
        "abandoned",
        "began",
        "blamed",
        "called",
        "cancelled_at",
        "left",
        "message",
        "task",
        "time",
        "turn",
        "tx",
        "what",
    )

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task: asyncio.Task[object] = task
        self.time: Callable[[], float] = task.get_loop().time
        self.began: float | None = None
        self.cancelled_at: float | None = None
        self.what: str = ""
        self.message: Message | None = None  # that the handler got; None: several
        self.blamed: Exception | None = None  # kept meeting it, alone in its batch
        self.called: bool = False  # a handler, since the lane began its batch
        self.tx: Transaction | None = None  # open around the handler
        self.turn: asyncio.Lock | None = None  # held around the handler
        self.abandoned: bool = False
        self.left: asyncio.Event = asyncio.Event()

    @asynccontextmanager
    async def within(self, storage: Storage) -> AsyncIterator[Transaction]:
        """A transaction that is given up with the run; not any more once it commits."""
        async with storage.transaction() as tx:
            self.tx = tx
            try:
                yield tx
            finally:
                self.tx = None

    @asynccontextmanager
    async def taking(self, turn: asyncio.Lock) -> AsyncIterator[None]:
        """A turn that is passed on with the run."""
        await turn.acquire()
        self.turn = turn
        try:
            yield
        finally:
            self._pass_on()

    def ended(self) -> None:
        """The handler returned, or raised.

        Raises:
            CancelledError: too late, its task was left behind: it ends here.
        """
        self.began = self.cancelled_at = None
        if self.abandoned:
            raise asyncio.CancelledError

    def give_up(self) -> None:
        """Its transaction keeps nothing and holds nothing; its task goes on."""
        if self.tx is not None:
            self.tx.abandon()

    def abandon(self) -> None:
        """Let go of everything that others wait for, and of the task."""
        self.abandoned = True
        self.give_up()
        self._pass_on()
        self.left.set()

    def _pass_on(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()


class AbandonedError(Exception):
    """A task was left behind in a handler that does not end.

    Args:
        error: what its message failed with.
        message: that the handler got; None: one of several.
    """

    def __init__(self, error: HandlerTimeoutError, message: Message | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.message = message


class Watchdog:
    """Looks four times per timeout; an overdue lane's task is cancelled, and the lane says so.

    A lane notes in its `Run` when a call began. Measured: 0.3 µs a call where `asyncio.timeout`
    takes 4 to 8; a foreign cancellation passes. A handler that ignores its cancellation is a
    zombie: its task is left behind, with nothing that others wait for, and its work goes on
    in another one.
    """

    def __init__(self, group: str, timeout: timedelta) -> None:
        self.group = group
        self.seconds: float = timeout.total_seconds()
        self.zombies: int = 0
        self._runs: list[Run] = []
        self._zombies: dict[asyncio.Task[object], str] = {}  # left behind, and not ended yet

    def watch(self, task: asyncio.Task[object]) -> Run:
        """The run of a task: give it back with `forget`."""
        run = Run(task)
        self._runs.append(run)
        return run

    def forget(self, run: Run) -> None:
        """The task is over."""
        self._runs.remove(run)

    async def mind(self, work: Callable[[Run], Awaitable[T]], name: str) -> T:
        """Do it in a task of its own, which is left behind when a handler in it does not end.

        Raises:
            AbandonedError: it was; its transaction is given up.
        """

        async def begin() -> T:
            return await work(run)

        task = asyncio.create_task(begin(), name=name)
        run = self.watch(task)
        leaving = asyncio.create_task(run.left.wait(), name=f"{name}:left")
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=LEAVING_SECONDS)
            raise
        finally:
            leaving.cancel()
            self.forget(run)
            if not task.done():
                self._leave(run)
        if run.abandoned:
            raise AbandonedError(self._too_long(run.what), run.message)
        return task.result()

    @property
    def trouble(self) -> str | None:
        """A handler that swallows its cancellation, if there is one."""
        stuck = [*self._zombies.values(), *(run.what for run in self._runs if self._is_zombie(run))]
        return f"handlers do not end when cancelled: {', '.join(stuck)}" if stuck else None

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch until cancelled: a drain waits for handlers, so it must end those that hang."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(self.seconds / 4, 0.001))
            for run in self._runs:
                if run.began is not None and loop.time() - run.began >= self.seconds:
                    self._end(run, loop.time())

    def _end(self, run: Run, now: float) -> None:
        if run.cancelled_at is None:
            run.cancelled_at = now
            run.task.cancel()
        elif self._is_zombie(run) and not run.abandoned:
            self.zombies += 1
            log.error("handler %s of group %s ignores its cancellation", run.what, self.group)
            run.abandon()

    def _is_zombie(self, run: Run) -> bool:
        if run.began is None or run.cancelled_at is None:
            return False
        return asyncio.get_running_loop().time() - run.cancelled_at >= ZOMBIE_SECONDS

    def _leave(self, run: Run) -> None:
        if not run.abandoned:
            run.abandon()
        self._zombies[run.task] = run.what
        run.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        del self._zombies[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("group %s: an abandoned handler ended at last: %s", self.group, error)

    def timed_out(self, run: Run) -> HandlerTimeoutError | None:
        """What a CancelledError in a handler means: None, it came from outside and goes on.

        The task is no longer cancelling when this gives the error to raise instead.
        """
        if run.cancelled_at is None or run.task.uncancel() > 0:
            return None  # from outside, or both at once: the hard stop wins
        return self._too_long(run.what)

    def _too_long(self, what: str) -> HandlerTimeoutError:
        return HandlerTimeoutError(
            "EB4103",
            f"{what} ran longer than {self.seconds:g} s",
            where=f"group {self.group!r}",
            why="the group's timeout ended it; what it wrote is rolled back",
            next="make it faster, raise Group(timeout=…), or hand long work to a job table",
        )
