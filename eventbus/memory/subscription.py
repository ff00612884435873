"""One member of a group: what it was handed, its verdicts, its leaving."""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, cast

from eventbus.errors import TransportError
from eventbus.message import Message
from eventbus.transport import Delivery, Interest, OnLost

log: logging.Logger = logging.getLogger("eventbus.memory")

LEAVE_SECONDS = 10.0
YIELD_EVERY = 256  # messages; a yield for each costs more than all the rest (transports.md 10)


class Origin(Protocol):
    """Where a delivery came from: a partition as its group sees it, or an entry of a queue."""

    @property
    def name(self) -> str:
        """`Delivery.partition`."""
        ...


class MemoryDelivery:
    """A message waiting for its verdict."""

    __slots__ = ("epoch", "lost", "malformed", "message", "number", "origin", "redelivered")

    def __init__(
        self,
        message: Message,
        malformed: str | None,
        origin: Origin,
        number: int,
        epoch: int,
        redelivered: bool,
    ) -> None:
        self.message: Message = message
        self.malformed: str | None = malformed
        self.origin: Origin = origin
        self.number: int = number
        self.epoch: int = epoch
        self.redelivered: bool = redelivered
        self.lost: bool = False

    @property
    def partition(self) -> str:
        """`<topic>/<index>`, or the queue."""
        return self.origin.name

    @property
    def offset(self) -> str:
        """Offset in the log, or delivery tag of the channel."""
        return str(self.number)


class Membership(Protocol):
    """What a group does for one of its members; the two styles of the broker implement it."""

    @property
    def name(self) -> str:
        """The group."""
        ...

    def join(self, member: "MemorySubscription") -> None:
        """Take it in, as the last."""
        ...

    def leave(self, member: "MemorySubscription") -> None:
        """Take it out; what it left without a verdict comes again."""
        ...

    def take(self, member: "MemorySubscription", room: int) -> list[MemoryDelivery]:
        """What is ready for this member, at most `room`."""
        ...

    def record(self, member: "MemorySubscription", finished: Sequence[MemoryDelivery]) -> None:
        """Note acks; they count when `send` was called."""
        ...

    def send(self, member: "MemorySubscription") -> None:
        """Make recorded acks count."""
        ...

    def give_back(self, member: "MemorySubscription", back: Sequence[MemoryDelivery]) -> None:
        """What was not started comes again."""
        ...

    def backlog(self) -> int:
        """How many wait at the broker."""
        ...

    async def settled(self) -> None:
        """Return when nothing runs any more on behalf of a group that has no members."""
        ...


class MemorySubscription:
    """Joins on entering, leaves on exit; both styles of the broker share it."""

    def __init__(
        self,
        group: Membership,
        interest: Interest,
        on_lost: OnLost,
        *,
        max_in_flight: int,
        stepwise: bool,
        verdict_seconds: float,
        max_held: int,
    ) -> None:
        self.interest = interest
        self.open: dict[MemoryDelivery, None] = {}  # without a verdict, in the order handed out
        self.held_bytes: int = 0
        self.max_held_bytes = max_held
        self.waiter: asyncio.Future[None] | None = None
        self.late: int = 0  # verdicts that came twice, or too late
        self.left: bool = False
        self._joined = False
        self._owed = 0  # deliveries handed out since this member let others run
        self._group = group
        self._max_in_flight = max_in_flight
        self._on_lost = on_lost
        self._stepwise = stepwise
        self._verdict_seconds = verdict_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._telling: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._step()
        if self._joined or self.left:
            raise TransportError(
                "EB2105",
                "the subscription was entered before, or its transport is closed",
                where=f"group {self._group.name}",
                why="a subscription joins its group once",
                next="call subscribe() again",
            )
        self._joined = True
        self._group.join(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Send what is recorded, give back the rest, leave the group; the second time nothing."""
        if self._joined and not self.left:
            self._group.send(self)
        self.drop()
        await self._end_telling()
        await self._group.settled()
        await self._step()

    def drop(self) -> None:
        """Be gone at once: recorded verdicts that were not sent are lost, as with a process."""
        if self.left:
            return
        self.left = True
        if self._timer is not None:
            self._timer.cancel()
        lost = self.lose()
        if self._joined:
            self._group.leave(self)
        self.forget(lost)
        for task in self._telling_elsewhere():
            task.cancel()
        self.wake()

    def _telling_elsewhere(self) -> list[asyncio.Task[None]]:
        """Calls of `on_lost` that run, but not the one that makes this member leave."""
        running = [task for task in self._telling if not task.done()]
        current = asyncio.current_task() if running else None
        return [task for task in running if task is not current]

    async def _end_telling(self) -> None:
        if telling := self._telling_elsewhere():
            await asyncio.wait(telling, timeout=LEAVE_SECONDS)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        if self._stepwise or self._owed >= YIELD_EVERY:
            self._owed = 0
            await asyncio.sleep(0)
        while not self.left:
            room = self._max_in_flight - len(self.open)
            if room > 0 and (batch := self._group.take(self, room)):
                return batch
            await self._something()
        raise StopAsyncIteration

    async def _something(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def wake(self) -> None:
        """There may be something to take; harmless if not."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def hold(self, batch: Sequence[MemoryDelivery], size: int) -> None:
        """Count what is handed out."""
        self.open.update(dict.fromkeys(batch))
        self._owed += len(batch)
        self.held_bytes += size

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """With the broker at once, under `stepwise` after a delay; late ones are counted."""
        if finished := self._settle(deliveries):
            self._group.record(self, finished)
            self._send_soon()

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Comes again, in order, when this member has left; a queue without order: at once."""
        if back := self._settle(deliveries):
            self._group.give_back(self, back)

    def _settle(self, deliveries: Sequence[Delivery]) -> list[MemoryDelivery]:
        settled = []
        opened, missing = self.open, self
        for delivery in cast("Sequence[MemoryDelivery]", deliveries):
            if opened.pop(delivery, missing) is missing:
                self.late += 1
            else:
                self.held_bytes -= len(delivery.message.payload)
                settled.append(delivery)
        self.wake()
        return settled

    def _send_soon(self) -> None:
        if not self._verdict_seconds:
            self._group.send(self)
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._verdict_seconds, self._send)

    def _send(self) -> None:
        self._timer = None
        self._group.send(self)

    async def flush(self) -> None:
        """Return when every recorded verdict counts; always lets others run."""
        await asyncio.sleep(0)
        if not self.left:
            self._group.send(self)

    async def backlog(self) -> int | None:
        """What the group has not committed yet, or what is ready in its queue."""
        await self._step()
        return self._group.backlog()

    def lose(self) -> list[MemoryDelivery]:
        """From now on somebody else may get what is held here."""
        lost = list(self.open)
        for delivery in lost:
            delivery.lost = True
        return lost

    def tell_lost(self, lost: Sequence[MemoryDelivery], deadline: float) -> asyncio.Task[None]:
        """Call `on_lost` in a task of its own, which ends with this member."""
        call = self._call_on_lost(lost, deadline)
        task = asyncio.get_running_loop().create_task(call, name=f"on-lost:{self._group.name}")
        self._telling = [known for known in self._telling if not known.done()]
        self._telling.append(task)
        return task

    async def _call_on_lost(self, lost: Sequence[MemoryDelivery], deadline: float) -> None:
        try:
            await self._on_lost(lost, deadline)
        except Exception:  # the group goes on without this member's answer
            log.exception("on_lost of group %s failed", self._group.name)

    def forget(self, lost: Sequence[MemoryDelivery]) -> None:
        """Verdicts for these do not count any more."""
        for delivery in lost:
            if self.open.pop(delivery, self) is None:
                self.held_bytes -= len(delivery.message.payload)

    async def _step(self) -> None:
        if self._stepwise:
            await asyncio.sleep(0)
