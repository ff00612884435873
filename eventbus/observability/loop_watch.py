"""Says where the event loop stands still: a thread sees what the loop cannot tell."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from eventbus.resilience.retry import is_application

log: logging.Logger = logging.getLogger("eventbus.observability")

LIMIT_SECONDS = 0.7
LOOK_SECONDS = 0.2
_STILL = (
    "the event loop has stood still for %.1f s, and nothing else is handled meanwhile: %s;"
    " a handler that computes or waits without await is a plain def, which has a thread"
)
_OVER = "the event loop goes on; it had stood still for %.1f s"


class LoopWatch(AbstractAsyncContextManager["LoopWatch"]):
    """While it is entered, a loop that stands still is told within a second, with its stack.

    `eventbus run`, `dev` and `saga worker` have one. Entered in the loop that it watches.

    Args:
        limit_seconds: so long the loop may be busy with one thing.
        look_seconds: how often it is looked at.
    """

    def __init__(
        self, *, limit_seconds: float = LIMIT_SECONDS, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._standstill = Standstill(limit_seconds, look_seconds)
        self._look_seconds = look_seconds
        self._left = threading.Event()
        self._ticked = 0.0
        self._watched = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._tick()
        self._thread = threading.Thread(target=self._watch, name="eventbus:loop-watch", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._next.cancel()
        self._left.set()
        self._thread.join()

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._next = self._loop.call_later(self._look_seconds, self._tick)

    def _watch(self) -> None:
        looked, used = time.monotonic(), time.process_time()
        while not self._left.wait(self._look_seconds):
            now, cpu = time.monotonic(), time.process_time()
            said = self._standstill.seen(now - self._ticked, gap=now - looked, cpu=cpu - used)
            looked, used = now, cpu
            if said is not None:
                self._tell(said)

    def _tell(self, said: "Still | Over") -> None:
        if isinstance(said, Over):
            log.warning(_OVER, said.seconds)
            return
        frame = sys._current_frames()[self._watched]
        args = (said.seconds, place_of(frame))
        stack = "".join(traceback.format_stack(frame)).rstrip()
        log.handle(
            log.makeRecord(log.name, logging.WARNING, __file__, 0, _STILL, args, None, sinfo=stack)
        )


def place_of(frame: FrameType) -> str:
    """The innermost line of the application, else of whatever runs."""
    lines = [(each, line) for each, line in traceback.walk_stack(frame)]
    found, line = next((one for one in lines if is_application(one[0])), lines[0])
    return f"{found.f_code.co_filename}:{line} in {found.f_code.co_qualname}"


@dataclass(frozen=True, slots=True)
class Still:
    """It stands, for so long already."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Over:
    """It goes on; for so long it had stood."""

    seconds: float


class Standstill:
    """What is told of a loop, look by look: once when it stands, once when it goes on.

    Args:
        limit_seconds: what is shorter is no standstill.
        look_seconds: how long a look waits for its turn, if the process gets all it wants.
    """

    def __init__(self, limit_seconds: float, look_seconds: float) -> None:
        self._limit = limit_seconds
        self._look = look_seconds
        self._away = 0.0  # since the loop had a turn: the process as a whole had none
        self._longest = 0.0  # of the standstill that was told

    def seen(self, age: float, *, gap: float, cpu: float) -> Still | Over | None:
        """What to tell.

        Args:
            age: seconds since the loop had a turn.
            gap: seconds since the look before.
            cpu: seconds of CPU time that the process had since then. Hardly any in a look that
                comes late: others had the processor, or it was stopped, and its loop is not to
                blame for that. All of it: native code that lets no thread in.
        """
        if age < gap:
            self._away = 0.0
        if cpu < gap / 2:
            self._away += max(0.0, gap - self._look)
        age -= self._away
        if age > self._limit:
            told, self._longest = self._longest, age
            return None if told else Still(age)
        if not self._longest:
            return None
        seconds, self._longest = self._longest, 0.0
        return Over(seconds)
