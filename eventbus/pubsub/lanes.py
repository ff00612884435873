"""Same key in order, different keys at once (B5): where a delivery goes, and what one lane does."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import random
from typing import Protocol
from zlib import crc32

from eventbus.errors import CommitUnknownError, StorageError, TransportError
from eventbus.handler import Group
from eventbus.message import own_key
from eventbus.pubsub.gate import Gate
from eventbus.pubsub.watchdog import AbandonedError, Run, Watchdog
from eventbus.resilience.seldom import SeldomLog
from eventbus.service import pause
from eventbus.transport import Delivery

log: logging.Logger = logging.getLogger("eventbus.pubsub")

CONFLICTS = 3  # in a row
# Conflict with another transaction, time-out, doomed transaction: a message may be to blame.
_BY_A_MESSAGE = frozenset({"EB5011", "EB5007", "EB5004"})
_LOST = "EB5001"  # that too, if a handler was at it: its statement may end the server's process


class RunBatch(Protocol):
    """What a lane hands its batches to: how many, from the first, have their verdict."""

    async def run(self, batch: Sequence[Delivery], run: Run, stop: asyncio.Event) -> int:
        """Handle a batch."""
        ...


class Lane:
    """A deque and one task; takes what is ready and never waits for a batch to fill."""

    def __init__(
        self,
        group: Group,
        batches: RunBatch,
        gate: Gate,
        done: Callable[[Sequence[Delivery]], None],
        dropped: Callable[[Delivery], None],
        lines: SeldomLog | None = None,
    ) -> None:
        self.waiting: deque[Delivery] = deque()
        self.running: Sequence[Delivery] = ()
        self._group = group
        self._batches = batches
        self._gate = gate
        self._done = done
        self._dropped = dropped
        self._lines = lines or SeldomLog(log)  # of the group: its lanes wait for the same
        self._alone: dict[int, Exception | None] = {}  # deliveries, and what they are blamed for
        self._stopping = asyncio.Event()
        self._wake: asyncio.Future[None] | None = None
        self._run: Run | None = None

    def put(self, delivery: Delivery) -> None:
        """At the end."""
        self.waiting.append(delivery)
        self._nudge()

    def take_out(self, delivery: Delivery) -> bool:
        """Take back what still waits; False: it does not."""
        for place, one in enumerate(self.waiting):
            if one is delivery:
                del self.waiting[place]
                self._alone.pop(id(one), None)
                return True
        return False

    def stop(self) -> None:
        """End after the handler that runs; what has not started stays without a verdict."""
        self._stopping.set()
        self._nudge()

    def drop_lost(self) -> None:
        """What somebody else may get does not start here."""
        waiting, self.waiting = self.waiting, deque[Delivery]()
        self._put_back(waiting)

    def give_up_lost(self) -> None:
        """Keep nothing of a batch that somebody else may be at already, and hold nothing of it."""
        if self._run is not None and any(one.lost for one in self.running):
            self._run.give_up()

    async def keep(self, watchdog: Watchdog, name: str) -> None:
        """Work until stopped; what a handler does not give back goes on without it."""
        while True:
            try:
                return await watchdog.mind(self.run, name)
            except AbandonedError as left:
                self._go_on_after(left)

    async def run(self, run: Run) -> None:
        """Work until stopped."""
        self._run = run
        while not self._stopping.is_set():
            if not self.waiting:
                await self._sleep()
                continue
            permit = self._gate.permit()
            if permit == 0:
                await self._gate.wait()
                continue
            await self._batch(permit, run)
            if permit == 1:
                self._gate.probed()

    def _go_on_after(self, left: AbandonedError) -> None:
        """Its batch again: the guilty message is parked in its turn, unknown, each runs alone."""
        batch, self.running = self.running, ()
        guilty = [one for one in batch if one.message is left.message] or batch
        for one in guilty:
            self._alone[id(one)] = left.error if len(guilty) == 1 else None
        self._put_back(batch)
        self._gate.probed()

    async def _batch(self, permit: int, run: Run) -> None:
        batch: Sequence[Delivery] = self._take(permit)
        self.running = batch
        run.blamed = self._alone.pop(id(batch[0]), None)
        failures = suspicions = 0
        while batch and not (failures and self._stopping.is_set()):
            run.called = False
            try:
                started = await self._batches.run(batch, run, self._stopping)
            except (StorageError, TransportError) as error:
                failures += 1
                if is_suspicious(error, run, self._group):
                    suspicions += 1
                    batch = self._after_conflict(batch, error, suspicions, run)
                await self._back_off(error, failures)
                continue
            if failures:
                self._lines.over("group %s goes on", self._group.name)
            if started:
                self._done(batch[:started])
            batch = batch[started:]
            break
        self.running = ()
        run.blamed = None
        self._put_back(batch)

    def _after_conflict(
        self, batch: Sequence[Delivery], error: Exception, failures: int, run: Run
    ) -> Sequence[Delivery]:
        """A batch that cannot commit again and again goes on message by message.

        So only the offender is parked, once it did so alone as often: one that deadlocks with
        others, whose statement is never done in time, or that costs its connection.
        """
        if failures < CONFLICTS:
            return batch
        if len(batch) == 1:
            if failures >= 2 * CONFLICTS:
                run.blamed = error
            return batch
        self.waiting.extendleft(reversed(batch[1:]))
        self.running = batch[:1]
        return batch[:1]

    def _put_back(self, batch: Iterable[Delivery]) -> None:
        kept: list[Delivery] = []
        for one in batch:
            if one.lost:
                self._alone.pop(id(one), None)
                self._dropped(one)
            else:
                kept.append(one)
        self.waiting.extendleft(reversed(kept))

    def _take(self, permit: int) -> list[Delivery]:
        """What is ready, within the limits; redelivered ones apart, for they run alone."""
        if id(self.waiting[0]) in self._alone:
            return [self.waiting.popleft()]
        batch: list[Delivery] = []
        waiting, most = self.waiting, min(permit, self._group.batch_messages)
        left = self._group.batch_bytes
        redelivered = waiting[0].redelivered
        while waiting and len(batch) < most and waiting[0].redelivered == redelivered:
            if id(waiting[0]) in self._alone:
                break
            left -= len(waiting[0].message.payload)
            if left < 0 and batch:
                break
            batch.append(waiting.popleft())
        return batch

    async def _back_off(self, error: Exception, failures: int) -> None:
        """Our database or broker is away: the lane keeps its batch, and parks nothing."""
        self._lines.tell(
            getattr(error, "code", type(error).__name__),
            "group %s: batch runs again: %s",
            self._group.name,
            error,
            level=logging.INFO if isinstance(error, CommitUnknownError) else logging.WARNING,
        )
        seconds = min(5.0, 0.1 * 2 ** (failures - 1))
        if getattr(error, "code", "") in _BY_A_MESSAGE:  # with jitter, or two lanes meet again
            seconds = 0.04 * failures * random()  # noqa: S311 - jitter
        await pause(self._stopping, min(seconds, 5.0))

    async def _sleep(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _nudge(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def is_suspicious(error: Exception, run: Run, group: Group) -> bool:
    """Whether a message may be to blame for what its transaction met."""
    code = getattr(error, "code", "")
    lost = code == _LOST and run.called and group.transactional
    return lost or code in _BY_A_MESSAGE


def lane_for(delivery: Delivery, lanes: Sequence[Lane], group: Group) -> Lane:
    """By crc32 of the key, the same in every process; what has no order goes where least waits.

    A redelivered one always goes by its key or identity, so that it meets its first run.
    """
    message = delivery.message
    key = message.key if group.order == "key" else None
    if key is None:
        if not delivery.redelivered:
            return min(lanes, key=_load)
        key = own_key(message)
    # not its low bits: partitions go by them, and a member with few would reach few lanes
    return lanes[(crc32(key.encode()) >> 8) % len(lanes)]


def _load(lane: Lane) -> int:
    return len(lane.waiting) + len(lane.running)
