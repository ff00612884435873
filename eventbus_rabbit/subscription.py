"""One member of a group: a consumer per queue, kept up; verdicts; leaving."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

from aiormq.channel import Channel

from eventbus.errors import TransportError
from eventbus.service import end
from eventbus.transport import Delivery, Interest, OnLost
from eventbus_rabbit.config import RabbitConfig
from eventbus_rabbit.connection import Backoff, Link
from eventbus_rabbit.delivery import Intake, RabbitDelivery
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded, public
from eventbus_rabbit.spreading import Spreading
from eventbus_rabbit.topology import Queue, Topology, declare, declare_queue, queues_of, topology_of

log: logging.Logger = logging.getLogger("eventbus.rabbit")

SILENCE_SECONDS = 30.0
FLUSH_SECONDS = 3.0
NEVER = float("inf")


class RabbitSubscription:
    """Joins on entering, leaves on exit.

    Each queue has a task that declares, consumes, watches, and begins anew with another channel
    when anything is lost; a tag of an old one is never sent on a new one.
    """

    def __init__(
        self,
        config: RabbitConfig,
        link: Link,
        interest: Interest,
        on_lost: OnLost,
        known: set[str],
    ) -> None:
        self.interest = interest
        self.left: bool = False
        self.late: int = 0  # verdicts that came twice, or too late
        self.trouble: str | None = None
        self._config = config
        self._link = link
        self._on_lost = on_lost
        self._known = known
        self._topology: Topology = topology_of(interest, config)
        self._queues: Sequence[str] = queues_of(interest, config)
        self._prefetch = prefetch_of(interest, config)
        self._intakes: dict[str, Intake] = {}
        self._ready = deque[RabbitDelivery]()
        self._waiter: asyncio.Future[None] | None = None
        self._error: TransportError | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._telling: list[asyncio.Task[None]] = []
        self._generation = 0
        self._working = asyncio.Event()
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered or self.left:
            raise TransportError(
                "EB2105",
                "the subscription was entered before, or its transport is closed",
                where=f"group {self.interest.group}",
                why="a subscription joins its group once",
                next="call subscribe() again",
            )
        self._entered = True
        self._keepers = [
            asyncio.create_task(self._keep_up(queue), name=f"rabbit:{queue}")
            for queue in random.sample(self._queues, len(self._queues))
        ]
        if len(self._queues) > 1:
            name = f"rabbit:members:{self.interest.group}"
            self._keepers.append(asyncio.create_task(self._spreading().run(), name=name))
        try:
            await guarded(self._working.wait(), self._config.connect_timeout.total_seconds())
        except BrokenError as error:
            await self.leave()
            why = BrokenError(self.trouble or str(error))
            raise public(why, self._config.place) from error
        except BaseException:
            await self.leave()
            raise
        if self._error is not None:
            await self.leave()
            raise self._error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Send what is recorded, give back the rest; bounded, the second time nothing."""
        if self.left:
            return
        self.left = True
        self._wake()
        await end(self._keepers)
        intakes = list(self._intakes.values())
        try:
            await asyncio.gather(*(_end(intake) for intake in intakes))
        finally:
            for intake in intakes:
                intake.over.set()
                intake.lose()
            self._ready.clear()
            current = asyncio.current_task()
            await end([task for task in self._telling if task is not current])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        while not self.left:
            if batch := self._take():
                return batch
            if self._error is not None:
                raise self._error
            self._renew()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        raise StopAsyncIteration

    def _spreading(self) -> Spreading:
        seconds = self._config.spread_interval.total_seconds()
        group, shards = self.interest.group, len(self._queues)
        return Spreading(self._link, group, self._intakes, shards, seconds, self._give_up)

    def _give_up(self, intake: Intake) -> None:
        """Hand out no more of it, end what runs, then join again as the last in its line."""
        log.info("queue %s goes to another member", intake.queue)
        intake.returning = True
        if not intake.handed:
            intake.over.set()

    def _take(self) -> list[RabbitDelivery]:
        batch = []
        for delivery in self._ready:
            intake = delivery.intake
            if not intake.returning and not delivery.lost:
                intake.handed += 1
                batch.append(delivery)
        self._ready.clear()
        return batch

    def _renew(self) -> None:
        """What was given back comes again in order when its channel closes: now if nothing runs."""
        for intake in self._intakes.values():
            if intake.returning and not intake.handed:
                intake.over.set()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """With the broker within 50 ms; late ones are counted."""
        touched: Intake | None = None
        for delivery in cast("Sequence[RabbitDelivery]", deliveries):
            intake = delivery.intake
            if not intake.finish(delivery):
                self.late += 1
            elif intake is not touched:
                if touched is not None:
                    touched.send_soon()
                touched = intake
        if touched is not None:
            touched.send_soon()
            if any(intake.returning for intake in self._intakes.values()):
                self._wake()

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Ordered: comes again when its channel closes, and nothing overtakes it. Else at once."""
        ordered = self.interest.order == "key"
        for delivery in cast("Sequence[RabbitDelivery]", deliveries):
            if not delivery.intake.give_back(delivery, ordered=ordered):
                self.late += 1
        self._wake()

    async def flush(self) -> None:
        """Return when every recorded verdict is with the broker; always lets others run."""
        await asyncio.sleep(0)
        for intake in list(self._intakes.values()):
            await intake.flush()

    async def backlog(self) -> int | None:
        """Ready messages of all its queues; None: the broker does not answer."""
        try:
            counts = [await self._count(queue) for queue in self._queues]
        except (BrokenError, RefusedError):
            return None
        return sum(ready for ready, _ in counts)

    async def _count(self, queue: str) -> tuple[int, int]:
        """Ready messages and consumers; with a single active consumer only that one counts."""
        answer = (0, 0)

        async def ask(channel: Channel) -> None:
            nonlocal answer
            answer = await declare_queue(channel, Queue(queue, {}), passive=True)

        await self._link.on_channel(ask)
        return answer

    async def _keep_up(self, queue: str) -> None:
        backoff = Backoff()
        while True:
            try:
                intake = await self._join(queue)
                backoff.reset()
                self.trouble = None
                self._joined()
                await self._watch(intake)
            except BrokenError as error:
                self.trouble = f"group {self.interest.group} has no consumer: {error}"
                log.warning("%s", self.trouble)
            except RefusedError as error:
                self.trouble = f"group {self.interest.group} cannot consume: {error}"
                if not self._working.is_set():
                    self._fail(error)
                    return
                log.warning("%s", self.trouble)  # it worked before: rights come back, brokers too
            finally:
                await self._lose(queue)
            await backoff.wait()

    def _joined(self) -> None:
        if len(self._intakes) == len(self._queues):
            self._working.set()

    def _fail(self, error: RefusedError) -> None:
        self._error = error.public(f"group {self.interest.group}, {self._config.place}")
        self._working.set()
        self._wake()

    async def _join(self, queue: str) -> Intake:
        wire = await self._link.wire()
        channel = await self._link.channel(wire)
        self._generation += 1
        intake = Intake(
            queue,
            self._generation,
            channel,
            self._link.frames_of(wire),
            self._arrived,
            self._config.foreign,
        )
        try:
            await declare(channel, self._topology, passive=not self._config.declare)
            await intake.start(self._prefetch)
        except BaseException:
            intake.lose()
            await intake.close()
            raise
        self._intakes[queue] = intake
        self._known.update(self._topology.targets)
        return intake

    def _arrived(self, delivery: RabbitDelivery) -> None:
        self._ready.append(delivery)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _watch(self, intake: Intake) -> None:
        """Return when the channel is of no use any more."""
        stuck = before = 0
        while not intake.over.is_set():
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await intake.over.wait()
            except TimeoutError:
                ready, consumers = await self._count(intake.queue)
                ours = self.interest.order == "none" or intake.received
                came, before = intake.received - before, intake.received
                stuck = stuck + 1 if ready and ours and not came and not intake.open else 0
                if not consumers or stuck > 1:
                    raise BrokenError(f"{ready} messages are ready, but none comes") from None

    async def _lose(self, queue: str) -> None:
        intake = self._intakes.get(queue)
        if intake is None or self.left:
            return
        del self._intakes[queue]
        waiting = {each for each in self._ready if each.intake is intake}
        handed = [delivery for delivery in intake.open if delivery not in waiting]
        self._ready = deque(each for each in self._ready if each.intake is not intake)
        intake.lose()
        if handed:
            self._telling = [task for task in self._telling if not task.done()]
            name = f"on-lost:{self.interest.group}"
            self._telling.append(asyncio.create_task(self._tell(handed), name=name))
        await intake.close()

    async def _tell(self, lost: Sequence[RabbitDelivery]) -> None:
        try:
            await self._on_lost(lost, NEVER)
        except Exception:  # the group goes on without this member's answer
            log.exception("on_lost of group %s failed", self.interest.group)


async def _end(intake: Intake) -> None:
    try:
        await guarded(intake.flush(), FLUSH_SECONDS)
    except (BrokenError, RefusedError) as error:
        log.debug("leaving queue %s: %s", intake.queue, error)
    await intake.close()


def prefetch_of(interest: Interest, config: RabbitConfig) -> int:
    """Per queue: all of them together hold no more than the member asked for."""
    together = min(interest.max_in_flight, config.prefetch)
    return max(1, together // len(queues_of(interest, config)))
