"""Publishing: calls with a deadline each, and which partition each of their messages goes to."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from eventbus.errors import NotSent, PublishError, PublishResult, Rejected, TransportError, Unknown
from eventbus.message import Message
from eventbus_kafka.calls import NOT_SENT, TOO_LARGE, Call, Entry, publish_error
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.learning import Ensure, Learning
from eventbus_kafka.mapping import key_bytes
from eventbus_kafka.partitions import Partitions
from eventbus_kafka.sender import STOP_SECONDS, Sender

log: logging.Logger = logging.getLogger("eventbus.kafka")

CANCELLED_SECONDS = 1.0  # a cancelled call waits so long for the batch that is under way


class Publisher:
    """Takes calls, and lets them go when each of their messages has its result."""

    def __init__(self, config: KafkaConfig, ensure: Ensure) -> None:
        self._config = config
        self._partitions = Partitions()
        self._sender = Sender(config)
        self._learning = Learning(
            self._partitions,
            ensure,
            self._sender.partitions_of,
            seconds=config.publish_seconds,
            where=config.where,
        )
        self._calls: dict[Call, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing is sent, if nothing is."""
        return self._sender.trouble

    @property
    def rebuilds(self) -> int:
        """How often the producer was thrown away."""
        return self._sender.rebuilds

    @property
    def partitions(self) -> Mapping[str, int]:
        """The count of each topic it has published to."""
        return self._partitions.counts

    async def start(self) -> None:
        """Connect.

        Raises:
            TransportError: EB2001, EB2302.
        """
        await self._sender.start()

    async def stop(self) -> None:
        """Finish what was accepted, within the deadline of the calls; then close."""
        if self._calls:
            waiting = [call.done for call in self._calls if call.done is not None]
            await asyncio.wait(waiting, timeout=STOP_SECONDS)
        await self._learning.stop()
        await self._sender.stop()
        for call in list(self._calls):
            self._sender.give_up(call)
        if self._timer is not None:
            self._timer.cancel()

    async def publish(self, messages: Sequence[Message]) -> None:
        """As `Transport.publish`."""
        loop = asyncio.get_running_loop()
        call = Call(messages, loop.time() + self._config.publish_seconds)
        try:
            if self._sender.is_full or not self._know(messages):
                async with asyncio.timeout_at(call.deadline):
                    await self._prepare(messages)
        except (TimeoutError, TransportError) as error:
            why = error.why if isinstance(error, TransportError) else "it was not sent in time"
            raise self._error(call, [NOT_SENT] * len(messages), why) from None
        self._enqueue(call)
        if call.left:
            call.done = loop.create_future()
            self._calls[call] = None
            if self._timer is None:
                self._timer = loop.call_at(call.deadline, self._tick)
            self._sender.wake()
            try:
                await call.done
            except asyncio.CancelledError:
                await self._cancelled(call)
                raise
            finally:
                self._calls.pop(call, None)
        if call.failed:
            raise self._error(call, call.results(), None)

    def _know(self, messages: Sequence[Message]) -> bool:
        known = self._partitions.counts
        if len(messages) == 1:  # no generator: it is most of what this takes
            return messages[0].topic in known
        return all(message.topic in known for message in messages)

    async def _prepare(self, messages: Sequence[Message]) -> None:
        """Wait for room, and learn how many partitions the topics have."""
        await self._sender.room()
        for topic in dict.fromkeys(message.topic for message in messages):
            if topic not in self._partitions:
                await self._learning.learn(topic)

    def _enqueue(self, call: Call) -> None:
        limit = self._config.max_body
        lane_of, rotate = self._partitions, self._partitions.next_unkeyed()
        for place, message in enumerate(call.messages):
            key = key_bytes(message)
            number = lane_of.of(message.topic, key, rotate)
            if number is None:
                call.settle(place, Rejected(self._learning.why_not(message.topic)))
                continue
            lane = self._sender.lane(message.topic, number)
            if call.stopped and lane in call.stopped:
                call.settle(place, NOT_SENT)
            elif len(message.payload) > limit:
                size = len(message.payload)
                call.settle(place, Rejected(f"{TOO_LARGE} {size} bytes, allowed are {limit}"))
                call.stopped.add(lane)
            else:
                self._sender.put(lane, Entry(call, place, message, key))

    async def _cancelled(self, call: Call) -> None:
        """Drop what waits; let the batch under way land, so that nothing is left running."""
        call.is_over = True
        if not call.flying:
            return
        call.left = call.flying
        call.done = asyncio.get_running_loop().create_future()
        await asyncio.wait([call.done], timeout=CANCELLED_SECONDS)

    def _tick(self) -> None:
        """Calls end in the order in which they began: one timer for all."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for call in list(self._calls):
            if call.deadline > loop.time():
                self._timer = loop.call_at(call.deadline, self._tick)
                return
            self._sender.give_up(call)

    def _error(self, call: Call, results: Sequence[PublishResult], why: str | None) -> PublishError:
        again = [
            message
            for message, result in zip(call.messages, results, strict=True)
            if isinstance(result, Unknown | NotSent)
        ]
        return publish_error(
            call.messages,
            results,
            where=self._config.where,
            why=why or self._sender.broken or self._sender.trouble,
            again=lambda: self.publish(again),
        )
