"""SAGALAG: from a reply that the engine has to the next command in the outbox, at half load.

Half of what this machine manages in the same run: so a part of the sagas runs at full load first.
The clock of a reply runs from its delivery to its acknowledgement, which follows the commit of the
transition, its command and its timers at once.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from benchmarks.postgres import World, case, timed
from benchmarks.rounds import Bar, Figures, Goal
from benchmarks.sagas import LONG_SECONDS, PARTICIPANTS, Lasting, Three, begin, completed
from eventbus import EventBus
from eventbus.errors import Finding
from eventbus.memory import MemoryBroker
from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.transport import (
    Capabilities,
    Delivery,
    Interest,
    OnLost,
    Subscription,
    Transport,
)

STARTED = 10  # in one transaction


class Timing:
    """A subscription that notes how long each reply had no verdict."""

    def __init__(self, of: Subscription, lags: list[float]) -> None:
        self._of = of
        self._lags = lags
        self._taken: dict[int, float] = {}

    async def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        async for batch in self._of:
            now = time.perf_counter()
            replies = [each for each in batch if "sagaoutcome" in each.message.headers]
            self._taken.update((id(each), now) for each in replies)
            yield batch

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """As it is, and the time of each reply."""
        now = time.perf_counter()
        began = [self._taken.pop(id(each), None) for each in deliveries]
        self._lags += [now - one for one in began if one is not None]
        self._of.ack(deliveries)

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """They come again, under other ids."""
        for each in deliveries:
            self._taken.pop(id(each), None)
        self._of.nack(deliveries)

    async def flush(self) -> None:
        """As it is."""
        await self._of.flush()

    async def backlog(self) -> int | None:
        """As it is."""
        return await self._of.backlog()


class Timed:
    """A transport that notes what the engine's group took."""

    def __init__(self, of: Transport) -> None:
        self.lags: list[float] = []
        self._of = of

    async def __aenter__(self) -> Self:
        await self._of.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._of.__aexit__(kind, error, trace)

    @property
    def capabilities(self) -> Capabilities:
        """As they are."""
        return self._of.capabilities

    @property
    def trouble(self) -> str | None:
        """As it is."""
        return self._of.trouble

    async def publish(self, messages: Sequence[Message]) -> None:
        """As it is."""
        await self._of.publish(messages)

    @asynccontextmanager
    async def subscribe(
        self, interest: Interest, *, on_lost: OnLost
    ) -> AsyncIterator[Subscription]:
        """The engine's with a clock."""
        async with self._of.subscribe(interest, on_lost=on_lost) as found:
            yield Timing(found, self.lags) if interest.group == "three" else found

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """As it is."""
        return await self._of.examine(interests)


def bar() -> Bar:
    """What the issue of the saga engine aims at."""
    goal = Goal(figure="p99_ms", at_most=25)
    return Bar(
        name="SAGALAG",
        what="ms from a reply consumed to the next command committed, at half load",
        ratio_of="p99_ms",
        cases=[case("SAGALAG", "a lasting transport in memory", 1000, _lagging, goal)],
    )


BARS = {"SAGALAG": bar}


async def _lagging(world: World, n: int) -> Figures:
    transport = Timed(Lasting(MemoryBroker()))
    storage = PostgresStorage(world.storage.config)
    bus = EventBus(transport, storage=storage, handlers=[Three, *PARTICIPANTS], service="bench")
    full = n // 2
    async with bus, asyncio.timeout(LONG_SECONDS):
        began = time.perf_counter()
        await begin(bus, range(full))
        await completed(world, full)
        rate = full / (time.perf_counter() - began) / 2
        transport.lags.clear()
        async with timed(world):
            await _paced(bus, range(full, full + n), rate)
            await completed(world, full + n)
    return {
        "p50_ms": statistics.median(transport.lags) * 1000,
        "p99_ms": statistics.quantiles(transport.lags, n=100)[-1] * 1000,
    }


async def _paced(bus: EventBus, numbers: Sequence[int], rate: float) -> None:
    """So many a second, each group on time, whatever became of those before it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for place in range(0, len(numbers), STARTED):
        await asyncio.sleep(began + place / rate - loop.time())
        await begin(bus, numbers[place : place + STARTED])
