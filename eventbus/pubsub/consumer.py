"""One group's deliveries: intake, back-pressure, progress, drain."""

import asyncio
import logging
from collections.abc import Sequence
from math import isinf
from time import time

from eventbus.handler import Group
from eventbus.instrumentation import Instrumentation
from eventbus.message import made_at
from eventbus.pubsub.gate import Gate
from eventbus.pubsub.lanes import Lane, RunBatch, lane_for
from eventbus.pubsub.watchdog import Watchdog
from eventbus.resilience.seldom import SeldomLog
from eventbus.transport import Delivery, Interest, Subscription, Transport

MAX_HELD_BYTES = 64 << 20


class Consumer:
    """subscription -> lanes by key -> batches -> ack."""

    def __init__(
        self,
        group: Group,
        interest: Interest,
        transport: Transport,
        batches: RunBatch,
        gate: Gate,
        watchdog: Watchdog,
        *,
        scheme: str,
        lanes: int,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.group = group
        self.gate = gate
        self.watchdog = watchdog
        self.subscribed: asyncio.Event = asyncio.Event()
        self.handled: int = 0  # deliveries with a verdict, ever: progress
        self._interest = interest
        self._transport = transport
        self._batches = batches
        self._scheme = scheme
        self._instrumentation = instrumentation
        self._width = lanes
        self._lanes: list[Lane] = []
        self._subscription: Subscription | None = None
        self._held = 0
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._progress = asyncio.Event()
        self._revoking = False
        self._joined: dict[int, list[tuple[Delivery, Lane]]] = {}

    @property
    def is_subscribed(self) -> bool:
        """Whether it is a member of its group now."""
        return self._subscription is not None

    @property
    def subscription(self) -> Subscription | None:
        """What it is a member by, now."""
        return self._subscription

    @property
    def topics(self) -> Sequence[str]:
        """What the group wants of the broker."""
        return self._interest.topics

    @property
    def trouble(self) -> str | None:
        """Why it makes no progress, if it should."""
        blocked = getattr(self._batches, "blocked", 0)
        name = self.group.name
        return f"group {name!r}: {blocked} messages are retried for ever" if blocked else None

    async def backlog(self) -> int | None:
        """What waits here and at the broker; None: unknown."""
        if self._subscription is None:
            return None
        waiting = await self._subscription.backlog()
        return None if waiting is None else waiting + self._held

    async def idle(self) -> bool:
        """Whether nothing is held here and nothing waits at the broker."""
        return self._held == 0 and await self.backlog() == 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until stopping; then let running handlers end, commit, ack, leave (B10)."""
        name = f"consumer:{self.group.name}"
        async with self._transport.subscribe(self._interest, on_lost=self._on_lost) as subscription:
            self._subscription = subscription
            self.subscribed.set()
            self._held = self._held_bytes = 0
            self._joined.clear()
            lines = SeldomLog(logging.getLogger("eventbus.pubsub"))
            self._lanes = [
                Lane(self.group, self._batches, self.gate, self._done, self._dropped, lines)
                for _ in range(self._width)
            ]
            try:
                async with asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(self.watchdog.run(stopping), name=f"watchdog:{name}")
                    intake = tasks.create_task(self._intake(subscription), name=name)
                    running = [
                        tasks.create_task(lane.keep(self.watchdog, name), name=name)
                        for lane in self._lanes
                    ]
                    await stopping.wait()
                    intake.cancel()
                    for lane in self._lanes:
                        lane.stop()
                    await asyncio.wait(running)
                    watch.cancel()
                await subscription.flush()
            finally:
                self._subscription = None
                self.subscribed.clear()

    async def _intake(self, subscription: Subscription) -> None:
        """Not asking is back-pressure: recomputed on every turn, never latched."""
        async for batch in subscription:
            self._take(batch)
            if self._instrumentation is not None:
                self._observe(batch)
            while self._is_full():
                self._room.clear()
                await self._room.wait()

    def _take(self, batch: Sequence[Delivery]) -> None:
        lanes, group = self._lanes, self.group
        for delivery in batch:
            if delivery.lost:  # since the adapter fetched it: somebody else gets it
                continue
            self._held += 1
            self._held_bytes += len(delivery.message.payload)
            first = self._first_run(delivery) if delivery.redelivered else None
            if first is None:
                lane_for(delivery, lanes, group).put(delivery)
            else:
                self._join(delivery, *first)

    def _first_run(self, delivery: Delivery) -> tuple[Delivery, Lane] | None:
        """The delivery of the same message that a lane of this group runs, or will."""
        message = delivery.message
        for lane in self._lanes:
            for one in (*lane.running, *lane.waiting):
                if one.message.id == message.id and one.message.source == message.source:
                    return one, lane
        return None

    def _join(self, delivery: Delivery, first: Delivery, lane: Lane) -> None:
        """It takes the verdict of its first run; should that not come, it runs in its own place."""
        self._joined.setdefault(id(first), []).append((delivery, lane))
        lane.put(delivery)

    def _done(self, deliveries: Sequence[Delivery]) -> None:
        if self._joined:
            deliveries = [each for one in deliveries for each in (one, *self._joined_by(one))]
        if self._subscription is not None:
            self._subscription.ack(deliveries)
        self._release(deliveries)
        self.handled += len(deliveries)
        if self._instrumentation is not None:
            self._observe_latency(deliveries[0])
        if self._revoking:
            asyncio.get_running_loop().call_soon(self._progress.set)  # once the lane let go

    def _joined_by(self, first: Delivery) -> Sequence[Delivery]:
        """What waits for nothing but this verdict."""
        joined = self._joined.pop(id(first), ())
        return [delivery for delivery, lane in joined if lane.take_out(delivery)]

    def _dropped(self, lost: Delivery) -> None:
        """No verdict: somebody else gets it."""
        self._joined.pop(id(lost), None)
        self._release([lost])
        self._progress.set()

    def _release(self, deliveries: Sequence[Delivery]) -> None:
        self._held -= len(deliveries)
        self._held_bytes -= sum(len(one.message.payload) for one in deliveries)
        if not self._is_full():
            self._room.set()

    def _is_full(self) -> bool:
        return self._held >= self.group.max_in_flight or self._held_bytes >= MAX_HELD_BYTES

    async def _on_lost(self, lost: Sequence[Delivery], deadline: float) -> None:
        """Drop what waits; wait for what runs, until the deadline: then it is given up."""
        self._revoking = True
        for lane in self._lanes:
            lane.drop_lost()
        try:
            async with asyncio.timeout_at(None if isinf(deadline) else deadline):
                while self._run_any(lost):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            for lane in self._lanes:
                lane.give_up_lost()
        finally:
            self._revoking = False

    def _run_any(self, lost: Sequence[Delivery]) -> bool:
        gone = {id(one) for one in lost}
        return any(id(one) in gone for lane in self._lanes for one in lane.running)

    def _observe(self, batch: Sequence[Delivery]) -> None:
        assert self._instrumentation is not None  # noqa: S101 - asked by the only caller
        group = self.group.name
        counts: dict[str, int] = {}
        for delivery in batch:
            counts[delivery.message.topic] = counts.get(delivery.message.topic, 0) + 1
        for topic, amount in counts.items():
            self._instrumentation.count(
                "consumed_total", amount, transport=self._scheme, topic=topic, group=group
            )
        self._instrumentation.gauge("handlers_in_progress", float(self._held), group=group)

    def _observe_latency(self, first: Delivery) -> None:
        """Of the first of a batch, which waited longest; an id that is not ours tells no time."""
        assert self._instrumentation is not None  # noqa: S101 - asked by the only caller
        sent = made_at(first.message.identity)  # known: the inbox goes by it
        if sent is not None:
            seconds = max(0.0, time() - sent)  # the sender's clock may be ahead
            self._instrumentation.observe(
                "delivery_latency_seconds", seconds, group=self.group.name
            )
