"""Ends handlers that run longer than their group allows: one watch per group, no timer per call."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from eventbus.errors import HandlerTimeoutError

log: logging.Logger = logging.getLogger("eventbus.pubsub")
ZOMBIE_SECONDS = 5.0


class Run:
    """What a lane is at: set before a handler is called, cleared after."""

    __slots__ = ("began", "blamed", "cancelled_at", "task", "time", "what")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task: asyncio.Task[object] = task
        self.time: Callable[[], float] = task.get_loop().time
        self.began: float | None = None
        self.cancelled_at: float | None = None
        self.what: str = ""
        self.blamed: Exception | None = None  # kept meeting it, alone in its batch


class Watchdog:
    """Looks four times per timeout; an overdue lane's task is cancelled, and the lane says so.

    A lane notes in its `Run` when a call began. Measured: 0.3 µs a call where `asyncio.timeout`
    takes 4 to 8; a foreign cancellation passes.
    """

    def __init__(self, group: str, timeout: timedelta) -> None:
        self.group = group
        self.seconds: float = timeout.total_seconds()
        self.zombies: int = 0
        self._runs: list[Run] = []

    def watch(self, task: asyncio.Task[object]) -> Run:
        """The run of a task: give it back with `forget`."""
        run = Run(task)
        self._runs.append(run)
        return run

    def forget(self, run: Run) -> None:
        """The task is over."""
        self._runs.remove(run)

    @property
    def trouble(self) -> str | None:
        """A handler that swallows its cancellation, if there is one."""
        stuck = [run.what for run in self._runs if self._is_zombie(run)]
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
        elif self._is_zombie(run):
            self.zombies += 1
            log.error("handler %s of group %s ignores its cancellation", run.what, self.group)

    def _is_zombie(self, run: Run) -> bool:
        if run.began is None or run.cancelled_at is None:
            return False
        return asyncio.get_running_loop().time() - run.cancelled_at >= ZOMBIE_SECONDS

    def timed_out(self, run: Run) -> HandlerTimeoutError | None:
        """What a CancelledError in a handler means: None, it came from outside and goes on.

        The task is no longer cancelling when this gives the error to raise instead.
        """
        if run.cancelled_at is None or run.task.uncancel() > 0:
            return None  # from outside, or both at once: the hard stop wins
        return HandlerTimeoutError(
            "EB4103",
            f"{run.what} ran longer than {self.seconds:g} s",
            where=f"group {self.group!r}",
            why="the group's timeout ended it; what it wrote is rolled back",
            next="make it faster, raise Group(timeout=…), or hand long work to a job table",
        )
