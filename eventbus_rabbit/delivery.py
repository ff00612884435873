"""A delivery, and the channel it came by: what is held there, what of it has its verdict."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from pamqp import frame
from pamqp.commands import Basic

from eventbus.message import Message
from eventbus_rabbit.arrival import Arrival, as_arrival
from eventbus_rabbit.connection import CLOSE_SECONDS, RPC_SECONDS, close_channel
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded
from eventbus_rabbit.mapping import read
from eventbus_rabbit.reading import FrameReader, Taker
from eventbus_rabbit.watermark import GAP_SECONDS, Acks, Watermark

log: logging.Logger = logging.getLogger("eventbus.rabbit")

ACK_SECONDS = 0.05
FULL_QUEUE_SECONDS = 0.01


class RabbitDelivery:
    """A message waiting for its verdict."""

    __slots__ = ("intake", "lost", "malformed", "message", "redelivered", "tag")

    def __init__(
        self,
        message: Message,
        malformed: str | None,
        intake: "Intake",
        tag: int,
        redelivered: bool,
    ) -> None:
        self.message: Message = message
        self.malformed: str | None = malformed
        self.intake: Intake = intake
        self.tag: int = tag
        self.redelivered: bool = redelivered
        self.lost: bool = False

    @property
    def partition(self) -> str:
        """The queue."""
        return self.intake.queue

    @property
    def offset(self) -> str:
        """Channel generation and delivery tag: neither survives the channel."""
        return f"{self.intake.generation}.{self.tag}"


class Intake:
    """One consumer on a channel of its own.

    A tag counts on its channel only: when that is gone, everything here is over, and what had no
    verdict comes again on another one.
    """

    def __init__(
        self,
        queue: str,
        generation: int,
        channel: Channel,
        frames: FrameReader | None,
        arrived: Callable[[RabbitDelivery], None],
        foreign: Mapping[str, str],
    ) -> None:
        self.queue = queue
        self.generation = generation
        self.channel = channel
        self.open: dict[RabbitDelivery, None] = {}  # without a verdict, in order
        self.handed: int = 0  # of these with the pipeline
        self.returning: bool = False  # ordered, and something was given back: hands out no more
        self.over: asyncio.Event = asyncio.Event()
        self.received: int = 0  # so many
        self.prefetch: int = 1
        self._arrived = arrived
        self._foreign = foreign
        self._watermark = Watermark()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._sent_since_flush = False
        self._frames = frames
        self._taker = Taker(self._take_in)
        self._unwritten: list[bytes] = []  # the client's queue to the socket is full: 10 writes
        channel.closing.add_done_callback(self._closed)
        channel.on_consumer_cancel_callbacks.add(self._cancelled)

    async def start(self, prefetch: int) -> None:
        """Consume.

        Raises:
            BrokenError: the channel is gone, or there was no answer.
            RefusedError: the queue is missing or belongs to somebody else.
        """
        self.prefetch = prefetch
        if self._frames is not None:
            self._frames.give(self.channel.number, self._taker)
        await guarded(self.channel.basic_qos(prefetch_count=prefetch), RPC_SECONDS)
        await guarded(self.channel.basic_consume(self.queue, self._receive), RPC_SECONDS)

    async def _receive(self, delivered: DeliveredMessage) -> None:
        """From the client, where it reads by itself; it cancels this with the channel (T2)."""
        self._take_in(as_arrival(delivered))

    def _take_in(self, arrival: Arrival) -> None:
        if self.over.is_set():
            return
        message, malformed = read(arrival, self._foreign)
        delivery = RabbitDelivery(message, malformed, self, arrival.tag, arrival.redelivered)
        self.received += 1
        self.open[delivery] = None
        self._arrived(delivery)

    def _closed(self, closing: object) -> None:
        """The channel's number may be another one's soon."""
        self.over.set()
        if self._frames is not None:
            self._frames.keep(self.channel.number, self._taker)

    def _cancelled(self, frame: object) -> None:
        """The broker ended the consumer: the queue was deleted, or took too long (4.3)."""
        self.over.set()

    def finish(self, delivery: RabbitDelivery) -> bool:
        """Note an ack; False if it comes twice or too late."""
        if self.open.pop(delivery, self) is self:
            return False
        self.handed -= 1
        self._watermark.finish(delivery.tag)
        return True

    def give_back(self, delivery: RabbitDelivery, *, ordered: bool) -> bool:
        """At once, or, to keep the order, with the channel; False if twice or too late."""
        if self.open.pop(delivery, self) is self:
            return False
        self.handed -= 1
        if ordered:
            self.returning = True
        else:
            self._watermark.give_back(delivery.tag)
            self._put([Basic.Nack(delivery_tag=delivery.tag, requeue=True)])
        delivery.lost = True
        return True

    def send_soon(self) -> None:
        """Acks go out together: half of the prefetch at once, less within 50 ms."""
        if self._watermark.unsent * 2 >= self.prefetch:
            self.send()
        elif self._timer is None and self._watermark.unsent:
            self._timer = self._loop.call_later(ACK_SECONDS, self.send)

    def send(self, *, all: bool = False) -> None:
        """Send what is due; above a gap only if that is old, or `all`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.over.is_set():
            return
        acks = self._watermark.due(self._loop.time(), all=all)
        self._put(_frames(acks))
        if self._watermark.unsent:
            self._timer = self._loop.call_later(GAP_SECONDS, self.send)

    def _put(self, frames: Sequence[Basic.Ack | Basic.Nack]) -> None:
        """In order: an ack of a prefix must not overtake what was given back inside it."""
        number = self.channel.number
        self._unwritten += [frame.marshal(each, number) for each in frames]
        self._write()

    def _write(self) -> None:
        """Without waiting, for verdicts are given where nobody can wait."""
        if not self._unwritten or self.over.is_set():
            return
        try:
            payload = b"".join(self._unwritten)
            self.channel.write_queue.put_nowait(ChannelFrame(payload, False))
        except asyncio.QueueFull:
            self._loop.call_later(FULL_QUEUE_SECONDS, self._write)
        else:
            self._unwritten.clear()
            self._sent_since_flush = True

    async def flush(self) -> None:
        """Every verdict is with the broker when this returns: it answered behind them."""
        self.send(all=True)
        if self._unwritten and not self.over.is_set():
            frames = ChannelFrame(b"".join(self._unwritten), False)
            self._unwritten.clear()
            self._sent_since_flush = True
            await self._answered(self.channel.write_queue.put(frames), CLOSE_SECONDS)
        if self._sent_since_flush and not self.over.is_set():
            self._sent_since_flush = False
            await self._answered(
                self.channel.basic_qos(prefetch_count=self.prefetch), CLOSE_SECONDS
            )

    async def _answered(self, call: Awaitable[object], seconds: float) -> None:
        try:
            await guarded(call, seconds)
        except (BrokenError, RefusedError) as error:
            log.debug("queue %s: verdicts are lost with their channel: %s", self.queue, error)
            self.over.set()
        except asyncio.CancelledError:
            self.over.set()  # nobody knows what was written: the next channel begins anew
            raise

    async def close(self) -> None:
        """What has no verdict goes back to the queue, in order; bounded."""
        self.over.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await close_channel(self.channel)

    def lose(self) -> list[RabbitDelivery]:
        """Over: what was handed out and has no verdict comes again."""
        lost = list(self.open)
        self.open.clear()
        for delivery in lost:
            delivery.lost = True
        self.handed = 0
        return lost


def _frames(acks: Acks) -> list[Basic.Ack | Basic.Nack]:
    frames: list[Basic.Ack | Basic.Nack] = []
    if acks.prefix is not None:
        frames.append(Basic.Ack(delivery_tag=acks.prefix, multiple=True))
    frames += [Basic.Ack(delivery_tag=tag) for tag in acks.singles]
    return frames
