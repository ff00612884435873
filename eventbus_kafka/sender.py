"""Batches on their way: one of a partition at a time, and a new producer after an unknown outcome.

Kafka stores a batch whole or not at all, so with one batch of a partition under way nothing of a
key is stored behind a refusal or an unknown outcome (`stops_at_refusal`). After an unknown outcome
the producer is thrown away before that partition is written to again: it would deliver later, and
its sequence numbers do not fit any more.
"""

import asyncio
import logging

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTimestampError
from aiokafka.structs import RecordMetadata

from eventbus.errors import PublishResult, Rejected, TransportError
from eventbus.service import end
from eventbus_kafka.calls import CONFIRMED, NOT_SENT, UNKNOWN, Call, Entry, Lane
from eventbus_kafka.clients import connecting, producer, stop_producer, within
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.errors import CLIENT_ERRORS, described, fate

log: logging.Logger = logging.getLogger("eventbus.kafka")

MAX_OUTSTANDING_BYTES = 32 << 20
STOP_SECONDS = 5.0
MOST_BETWEEN_SECONDS = 2.0  # two attempts to connect
NO_TIMESTAMP = -1  # of Kafka: it is neither checked nor used
UNTIMED_SECONDS = 300.0  # each refused batch costs a producer

NOT_TAKEN: tuple[type[Exception], ...] = (
    *CLIENT_ERRORS,
    AssertionError,  # the client asserts that it knows the partition,
    TypeError,  # and stumbles where the whole topic has gone
)


class Sender:
    """Owns the producer: starts it, feeds it, throws it away."""

    def __init__(self, config: KafkaConfig) -> None:
        self.trouble: str | None = "not connected yet"
        self.broken: str | None = None  # why the producer is thrown away
        self.rebuilds: int = 0
        self._config = config
        self._producer: AIOKafkaProducer | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._up = asyncio.Event()
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._ready: dict[Lane, None] = {}
        self._bytes = 0
        self._drained = asyncio.Event()
        self._timed_from = 0.0  # until then records have no timestamp

    async def start(self) -> None:
        """Connect.

        Raises:
            TransportError: EB2001, EB2302.
        """
        await self._connect()
        self._task = asyncio.create_task(self._run(), name="publisher:kafka")

    async def stop(self) -> None:
        """Close; what has no answer by then is unknown."""
        if self._task is not None:
            await end([self._task])
            self._task = None
        await self._drop_producer()

    @property
    def is_full(self) -> bool:
        """More than this should not wait in memory."""
        return self._bytes > MAX_OUTSTANDING_BYTES

    async def room(self) -> None:
        """Return once it is not full."""
        while self.is_full:
            self._drained.clear()
            await self._drained.wait()

    async def partitions_of(self, topic: str) -> int:
        """How many a topic has; waits for a producer, raises what that raises."""
        while (producer := self._producer) is None:
            await self._up.wait()
        return len(await producer.partitions_for(topic))

    def lane(self, topic: str, number: int) -> Lane:
        """The way to a partition."""
        lane = self._lanes.get((topic, number))
        if lane is None:
            lane = self._lanes[topic, number] = Lane(topic, number)
        return lane

    def put(self, lane: Lane, entry: Entry) -> None:
        """It waits for the next batch of its partition; `wake` sends it."""
        self._bytes += entry.size
        lane.waiting.append(entry)
        if not lane.flight:
            self._ready[lane] = None

    def wake(self) -> None:
        """Something was put."""
        self._wanted.set()

    def give_up(self, call: Call) -> None:
        """Its time is over: what is under way is unknown, and the producer useless then."""
        call.is_over = True
        for lane in self._lanes.values():
            for entries, result in ((lane.flight, UNKNOWN), (lane.waiting, NOT_SENT)):
                for entry in entries:
                    if entry.call is call and entry.place not in call.failed:
                        call.stopped.add(lane)
                        call.failed[entry.place] = result
        call.left = 0
        if call.done is not None and not call.done.done():
            call.done.set_result(None)
        if call.flying:
            self._break("no confirmation in time")

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self.broken is not None:
                await self._rebuild()
            ready, self._ready = self._ready, {}
            for lane in ready:
                if self.broken is None:
                    await self._send(lane)
                else:
                    self._ready[lane] = None

    async def _send(self, lane: Lane) -> None:
        """Put the next batch of a partition under way, unless one is."""
        producer = self._producer
        if lane.flight or producer is None:
            return
        batch = producer.create_batch()
        flight = lane.flight
        most = 1 if lane.singly else 1 << 30
        lane.timed = asyncio.get_running_loop().time() >= self._timed_from
        waiting = lane.waiting
        while waiting and len(flight) < most:
            entry = waiting[0]
            call = entry.call
            if call.is_over or (call.stopped and lane in call.stopped):
                self._landed(lane, waiting.popleft(), NOT_SENT, flew=False)
                continue
            if (
                batch.append(
                    timestamp=entry.timestamp if lane.timed else NO_TIMESTAMP,
                    key=entry.key,
                    value=entry.value,
                    headers=entry.headers,
                )
                is None
            ):
                break
            flight.append(waiting.popleft())
            call.flying += 1
        lane.singly = max(0, lane.singly - 1)
        if not flight:
            return
        batch.close()
        try:
            async with asyncio.timeout(self._config.publish_seconds):
                future = await producer.send_batch(batch, lane.topic, partition=lane.number)
        except NOT_TAKEN as error:
            self._returned(lane)
            self._break(f"a batch was not taken: {described(error)}")
        else:
            future.add_done_callback(lambda done: self._answered(lane, flight, done))

    def _returned(self, lane: Lane) -> None:
        """Nothing was sent: what was under way waits again."""
        flight, lane.flight = lane.flight, []
        _wait_again(lane, flight)
        self._ready[lane] = None

    def _answered(
        self, lane: Lane, flight: list[Entry], future: "asyncio.Future[RecordMetadata]"
    ) -> None:
        """The broker confirmed or refused, or nobody knows."""
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if lane.flight is not flight:
            return  # given up before, when the producer was thrown away
        lane.flight = []
        if error is None:
            for entry in flight:
                self._landed(lane, entry, CONFIRMED)
        else:
            self._failed(lane, flight, error)
        if lane.waiting:
            self._ready[lane] = None
            self._wanted.set()

    def _failed(self, lane: Lane, flight: list[Entry], error: BaseException) -> None:
        result = fate(error)
        if isinstance(error, InvalidTimestampError) and lane.timed:
            self._leave_out_timestamps(lane)
            _wait_again(lane, flight)
        elif isinstance(result, Rejected) and len(flight) > 1:
            lane.singly = len(flight)
            _wait_again(lane, flight)
        else:
            for entry in flight:
                entry.call.stopped.add(lane)
                self._landed(lane, entry, result)
        # refused or not: the client has counted these records, so its next sequence number is wrong
        self._break(f"{lane.topic}/{lane.number}: {described(error)}")

    def _leave_out_timestamps(self, lane: Lane) -> None:
        """A clock that is wrong, here or at the broker, must not keep a message from its way."""
        self._timed_from = asyncio.get_running_loop().time() + UNTIMED_SECONDS
        log.warning(
            "the timestamps of records are left out for %d s: topic %s refuses one; compare the"
            " clocks of this machine and the broker, and the attribute time of what is published",
            UNTIMED_SECONDS,
            lane.topic,
        )

    def _landed(
        self, lane: Lane, entry: Entry, result: PublishResult, *, flew: bool = True
    ) -> None:
        self._bytes -= entry.size
        if self._bytes <= MAX_OUTSTANDING_BYTES:
            self._drained.set()
        if flew:
            entry.call.flying -= 1
        entry.call.settle(entry.place, result)

    def _break(self, why: str) -> None:
        if self.broken is None:
            self.broken = why
        self._wanted.set()

    async def _rebuild(self) -> None:
        """Throw the producer away, let what it still sends land, and build the next one."""
        why, self.rebuilds = self.broken, self.rebuilds + 1
        log.warning("the producer of Kafka is built anew: %s", why)
        await self._drop_producer()
        delay, told = 0.1, False
        while True:
            self.trouble = why
            try:
                await self._connect()
            except TransportError as error:
                why = f"{error.what}: {error.why}"
                log.log(logging.DEBUG if told else logging.WARNING, "cannot publish: %s", why)
                told = True
                await asyncio.sleep(delay)
                delay = min(MOST_BETWEEN_SECONDS, delay * 2)
            else:
                break
        self.broken = None
        for lane in self._lanes.values():
            if lane.waiting:
                self._ready[lane] = None

    async def _connect(self) -> None:
        async with connecting(self._config):
            fresh = producer(self._config)
            try:
                await within(self._config.connect_seconds, fresh.start())
            except BaseException:
                await stop_producer(fresh, STOP_SECONDS)
                raise
        self._producer = fresh
        self._up.set()
        self.trouble = None

    async def _drop_producer(self) -> None:
        old, self._producer = self._producer, None
        self._up.clear()
        if old is None:
            return
        await stop_producer(old, STOP_SECONDS)
        await asyncio.sleep(0)  # batches that landed while it stopped tell so
        for lane in self._lanes.values():
            flight, lane.flight = lane.flight, []
            for entry in flight:
                entry.call.stopped.add(lane)
                self._landed(lane, entry, UNKNOWN)


def _wait_again(lane: Lane, flight: list[Entry]) -> None:
    """What was not stored, in its order, before what came later."""
    for entry in flight:
        entry.call.flying -= 1
    lane.waiting.extendleft(reversed(flight))
