"""One-shot appends of a process, merged: each caller its own verdict (S5)."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass

from eventbus.storage.events import Append, Appended
from eventbus.storage.verdicts import checked

REQUESTS = 500  # per call
EVENTS = 2000
BYTES = 4 << 20

Verdict = Appended | Exception
Write = Callable[[Sequence[Append]], Awaitable[Sequence[Verdict]]]
Stream = tuple[str, str]  # tenant, name


@dataclass(slots=True, eq=False)
class _Waiting:
    append: Append
    stream: Stream
    verdict: "asyncio.Future[Appended]"


class Merging:
    """Collects while calls are in flight; there is no timer, so an idle caller goes at once.

    A stream is in one call at a time, and at most once in it, so what waits for it goes in the
    order in which it came. A cancelled waiter takes nothing from the others: its own outcome is
    unknown, and the same ids settle it.

    Args:
        write: writes several appends of different streams in one commit; an answer for each. If
            it raises, it is called again for each append alone.
        lanes: calls at once.
        direct: who finds nothing waiting writes in its own task, which saves two turns of the loop;
            cancelled, it takes its call with it. For a `write` that waits for a reply: while one
            that does not wait runs, nobody can come to be merged.
    """

    def __init__(self, write: Write, *, lanes: int, direct: bool = False) -> None:
        self._write = write
        self._lanes = lanes
        self._direct = direct
        self._queue: deque[_Waiting] = deque()
        self._busy: set[Stream] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._direct_calls: set[asyncio.Future[None]] = set()

    async def append(self, append: Append) -> Appended:
        """Hand it over, and wait for its verdict.

        Raises:
            StorageError: EB5015, the arguments; nothing was sent.
            Exception: what `write` answered.
        """
        stream = (checked(append), append.stream)
        if self._direct and not self._queue and self._has_room and stream not in self._busy:
            return await self._alone(append, stream)
        waiting = _Waiting(append, stream, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._start()
        return await waiting.verdict

    async def finish(self) -> None:
        """Wait for what was handed over."""
        while calls := {*self._calls, *self._direct_calls}:
            await asyncio.wait(calls)

    @property
    def _has_room(self) -> bool:
        return len(self._calls) + len(self._direct_calls) < self._lanes

    async def _alone(self, append: Append, stream: Stream) -> Appended:
        ended = asyncio.get_running_loop().create_future()
        self._direct_calls.add(ended)
        self._busy.add(stream)
        try:
            (verdict,) = await self._verdicts([append])
        finally:
            self._busy.discard(stream)
            self._direct_calls.discard(ended)
            ended.set_result(None)
            self._start()
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def _start(self) -> None:
        while self._queue and self._has_room:
            batch = self._take()
            if not batch:
                return
            call = asyncio.create_task(self._run(batch), name="append:merged", context=Context())
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        self._start()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        room = _Room()
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.verdict.cancelled():
                continue
            if waiting.stream in self._busy:
                later.append(waiting)
            elif not room.takes(waiting.append):
                later.append(waiting)
                break
            else:
                self._busy.add(waiting.stream)
                batch.append(waiting)
        self._queue.extendleft(reversed(later))
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        try:
            verdicts = await self._verdicts([waiting.append for waiting in batch])
            for waiting, verdict in zip(batch, verdicts, strict=True):
                if waiting.verdict.done():
                    continue
                if isinstance(verdict, Exception):
                    waiting.verdict.set_exception(verdict)
                else:
                    waiting.verdict.set_result(verdict)
        finally:
            self._busy.difference_update(waiting.stream for waiting in batch)
            for waiting in batch:
                waiting.verdict.cancel()  # of those that got none: the loop is closing

    async def _verdicts(self, appends: Sequence[Append]) -> Sequence[Verdict]:
        try:
            return await self._write(appends)
        except Exception as error:  # whatever it is, each append is told its own
            if len(appends) == 1:
                return [error]
        # only the guilty one shall hear of it; what stands there already is told as repeated
        return [verdict for each in appends for verdict in await self._verdicts([each])]


class _Room:
    """What still goes into a call; one append always does."""

    def __init__(self) -> None:
        self._requests = self._events = self._bytes = 0

    def takes(self, append: Append) -> bool:
        events = len(append.messages)
        size = sum(len(message.payload) for message in append.messages)
        if self._requests and (
            self._requests >= REQUESTS
            or self._events + events > EVENTS
            or self._bytes + size > BYTES
        ):
            return False
        self._requests += 1
        self._events += events
        self._bytes += size
        return True
