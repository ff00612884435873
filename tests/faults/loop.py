"""A loop that picks among what is ready by a seed, in virtual time: one seed, one schedule."""

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_SCHEDULE = 50_000  # turns; a schedule that needs more runs in a circle


process: ContextVar[str] = ContextVar("process", default="")
"""Which simulated process a task belongs to; tasks inherit it."""


class ScheduleTooLongError(Exception):
    """So many turns, and no end: something polls without waiting."""


class StuckError(Exception):
    """Nothing is ready, nothing is due, and the main task is not done."""


class SeededLoop(asyncio.BaseEventLoop):
    """No threads, no sockets: what is ready, and a clock that jumps to the next timer.

    Uses `_ready`, `_scheduled` and `_run_once` of CPython 3.11 to 3.14: the documented interface
    gives no say in the order of what is ready.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = Random(seed)
        self.turns = 0
        self.most_turns = LONGEST_SCHEDULE
        self.tasks: list[tuple[str, asyncio.Task[Any]]] = []  # with their process, in order
        self._now = 0.0
        self._numbers: dict[object, int] = {}

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **more: Any
    ) -> Any:
        """A task, noted in order with its process: a set of tasks has no order that repeats."""
        task = super().create_task(coro, name=name, context=context, **more)
        owner = process.get() if context is None else context.get(process, "")
        self.tasks.append((owner, task))
        self._numbers[task] = len(self.tasks)
        return task

    def of_process(self, name: str) -> list[asyncio.Task[Any]]:
        """The tasks that were started by a process and those it started, and are not done."""
        return [task for owner, task in self.tasks if owner == name and not task.done()]

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > self.most_turns:
            raise ScheduleTooLongError(f"{self.turns} turns, {self._now:.1f} s")
        if not self._ready:
            self._jump()
        self._release_due()
        ready = self._ready
        if not ready:
            return  # a cancelled timer was the next one
        place = self._choice() if len(ready) > 1 else 0
        handle = ready[place]
        del ready[place]
        if not handle.cancelled():
            handle._run()

    def _choice(self) -> int:
        """By the numbers of the tasks: asyncio wakes and cancels some in the order of a set."""
        numbers, last = self._numbers, len(self._numbers)
        order = [
            (numbers.get(getattr(handle._callback, "__self__", None), last), place)  # type: ignore[attr-defined]  # of every Handle
            for place, handle in enumerate(self._ready)
        ]
        order.sort()
        return order[self.random.randrange(len(order))][1]

    def _jump(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            self._drop()
        if not self._scheduled:
            raise StuckError("nothing is ready and nothing is due")
        self._now = max(self._now, self._scheduled[0].when())

    def _release_due(self) -> None:
        while self._scheduled and self._scheduled[0].when() <= self._now:
            handle = self._drop()
            if not handle.cancelled():
                self._ready.append(handle)

    def _drop(self) -> asyncio.TimerHandle:
        handle = heapq.heappop(self._scheduled)
        handle._scheduled = False  # type: ignore[attr-defined]  # as BaseEventLoop does
        return handle

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""


def run_seeded(
    seed: int, main: Callable[[SeededLoop], Coroutine[Any, Any, T]], *, at_most: float
) -> T:
    """Run `main` on a loop of its own, at most so many virtual seconds.

    Raises:
        TimeoutError: it was not done by then.
    """
    loop = SeededLoop(seed)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_within(main(loop), at_most))
    finally:
        try:
            _cancel_all(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def _within(work: Coroutine[Any, Any, T], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await work


def _cancel_all(loop: SeededLoop) -> None:
    left = [task for _, task in loop.tasks if not task.done()]
    loop.most_turns = loop.turns + LONGEST_SCHEDULE
    for task in left:
        task.cancel()
    with contextlib.suppress(ScheduleTooLongError, StuckError):  # what the schedule raised counts
        loop.run_until_complete(_ended(left))


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
