"""What may be done beside the traffic, and may be left out: a snapshot."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context

from eventbus.handler import UnitOfWork
from eventbus.service import end

log: logging.Logger = logging.getLogger("eventbus.bus")

MOST_WAITING = 10_000  # pieces of work; what comes on top is left out
GRACE_SECONDS = 2.0  # when the bus is left: for what waits

Work = Callable[[UnitOfWork], Awaitable[None]]


class Afterwards:
    """One piece of work at a time, each in a unit of work of its own.

    Args:
        transact: begins one; the bus is entered.
    """

    def __init__(self, transact: Callable[[], AbstractAsyncContextManager[UnitOfWork]]) -> None:
        self._transact = transact
        self._waiting: dict[str, Work] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return self._task is None or self._task.done()

    def add(self, name: str, work: Work) -> None:
        """Later; one of this name that waits already stands for both."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.setdefault(name, work)
        if self.is_idle:  # in a context of its own: whoever asks may hold a transaction
            self._task = asyncio.create_task(self._run(), name="afterwards:0", context=Context())

    async def end(self) -> None:
        """Do what waits, for a while; the rest is left out."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=GRACE_SECONDS)
            self._waiting.clear()
            await end([self._task])
            self._task = None

    async def _run(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            work = self._waiting.pop(name)
            try:
                async with self._transact() as tx:
                    await work(tx)
            except Exception as error:  # whatever it was: the traffic does not depend on it
                log.warning("left out: %s: %s", name, error)
