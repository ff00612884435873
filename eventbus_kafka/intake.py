"""What a member holds: fetched, handed out, and how much room is left; pure."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence

from aiokafka import ConsumerRecord, TopicPartition

from eventbus_kafka.delivery import Assigned, KafkaDelivery
from eventbus_kafka.mapping import Mapper


class Intake:
    """Bounded by count and bytes; what waits here is given up before what was handed out.

    Args:
        max_in_flight: deliveries, those that wait to be taken included.
        max_bytes: of bodies; the last fetch may exceed it.
    """

    def __init__(self, mapper: Mapper, *, max_in_flight: int, max_bytes: int) -> None:
        self.late: int = 0  # verdicts that came twice, or too late
        self.something: asyncio.Event = asyncio.Event()
        self.room: asyncio.Event = asyncio.Event()
        self._mapper = mapper
        self._max_in_flight = max_in_flight
        self._max_bytes = max_bytes
        self._waiting: deque[KafkaDelivery] = deque()
        self._open: dict[KafkaDelivery, None] = {}  # handed out, without a verdict
        self._bytes = 0

    @property
    def is_waiting(self) -> bool:
        """Whether somebody should take what is here."""
        return bool(self._waiting)

    def free(self) -> int:
        """How many more may be fetched."""
        if self._bytes >= self._max_bytes:
            return 0
        return max(0, self._max_in_flight - len(self._open) - len(self._waiting))

    def read(self, assigned: Assigned, records: Sequence[ConsumerRecord]) -> list[KafkaDelivery]:
        """Records as deliveries, tracked from now on; those known to be done are left out."""
        read = self._mapper.read
        topic, number = assigned.part
        watermark, flagged, skipped = assigned.watermark, assigned.flagged, assigned.skipped
        watermark.begin([record.offset for record in records])
        assigned.seen = records[-1].offset + 1
        found: list[KafkaDelivery] = []
        for record in records:
            offset = record.offset
            if skipped and offset in skipped:
                watermark.finish(offset, watermark.epoch)
                continue
            message, malformed = read(
                topic, number, offset, record.key, record.value, record.headers
            )
            found.append(KafkaDelivery(message, malformed, assigned, offset, offset < flagged))
        return found

    def read_unreadable(self, assigned: Assigned, offset: int) -> KafkaDelivery:
        """In place of a record that the client skipped, so that its place is kept (T26)."""
        part = assigned.part
        message, _ = self._mapper.read(part.topic, part.partition, offset, None, None, ())
        assigned.watermark.begin([offset])
        assigned.seen = offset + 1
        return KafkaDelivery(message, "too large to fetch", assigned, offset, True)

    def put(self, deliveries: Sequence[KafkaDelivery]) -> None:
        """They wait to be taken; what was lost meanwhile is dropped."""
        for delivery in deliveries:
            if not delivery.lost and not delivery.assigned.is_closed:
                self._waiting.append(delivery)
                self._bytes += len(delivery.message.payload)
        if self._waiting:
            self.something.set()

    def take(self) -> list[KafkaDelivery]:
        """All that waits: handed out from now on."""
        batch, self._waiting = list(self._waiting), deque()
        self._open.update(dict.fromkeys(batch))
        for delivery in batch:
            delivery.assigned.handed = delivery.number + 1
        return batch

    def settle(self, deliveries: Sequence[KafkaDelivery]) -> list[KafkaDelivery]:
        """Those of them whose verdict counts: the first one, and not too late."""
        opened, missing = self._open, self
        counted: list[KafkaDelivery] = []
        for delivery in deliveries:
            if opened.pop(delivery, missing) is missing:
                self.late += 1
            else:
                self._bytes -= len(delivery.message.payload)
                counted.append(delivery)
        if counted:
            self.room.set()
        return counted

    def halt(self, assigned: Assigned, why: str) -> None:
        """Nothing more of a partition is fetched, and what waits of it is not handed out."""
        assigned.halted = why
        kept: deque[KafkaDelivery] = deque()
        for delivery in self._waiting:
            if delivery.assigned is assigned:
                self._forget(delivery)
            else:
                kept.append(delivery)
        self._waiting = kept

    def lose(self) -> Sequence[KafkaDelivery]:
        """Somebody else may get all of it: what waits is dropped, what was handed out is told."""
        for delivery in self._waiting:
            self._forget(delivery)
        self._waiting.clear()
        lost = list(self._open)
        for delivery in lost:
            delivery.lost = True
        return lost

    def void(self) -> None:
        """No verdict counts any more."""
        self.lose()
        self._open.clear()
        self._bytes = 0
        self.room.set()

    def _forget(self, delivery: KafkaDelivery) -> None:
        delivery.lost = True
        self._bytes -= len(delivery.message.payload)


Fetched = Mapping[TopicPartition, list[ConsumerRecord]]
