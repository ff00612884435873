"""A record waiting for its verdict, and the partition it came from."""

from collections import deque

from aiokafka import TopicPartition

from eventbus.message import Message
from eventbus_kafka.watermark import Mark, Watermark


class Assigned:
    """A partition during one assignment: what was handed out, what is finished, what to commit."""

    __slots__ = (
        "beside",
        "flagged",
        "halted",
        "handed",
        "is_closed",
        "limit",
        "name",
        "part",
        "position",
        "sent",
        "skipped",
        "stuck_since",
        "watermark",
    )

    def __init__(self, part: TopicPartition, epoch: int, mark: Mark) -> None:
        self.part = part
        self.name = f"{part.topic}/{part.partition}"
        self.watermark = Watermark(epoch, mark.offset)
        self.flagged = mark.limit  # below it an earlier start cannot be ruled out
        self.skipped = mark.done  # acknowledged before, above what could be committed
        self.position = mark.offset  # of the next record to come
        self.handed = mark.offset  # above everything that was handed out
        self.limit = mark.offset  # nothing at or above it is handed out before a commit
        self.sent: Mark | None = None  # what the broker holds
        self.halted: str | None = None  # why nothing more is fetched
        self.stuck_since: float | None = None
        self.is_closed = False
        self.beside = frozenset[int]()

    def mark(self, ahead: int, *, last: bool = False) -> Mark:
        """What to commit now; `last`: nothing more is handed out."""
        watermark = self.watermark
        watermark.pass_over(self.position)
        started = max(self.handed, self.flagged) if watermark.is_open else self.handed
        limit = started if last else max(started, watermark.safe) + ahead
        if last and not watermark.is_open and self.flagged <= watermark.safe:
            limit = watermark.safe
        elif last:
            limit = max(limit, min(self.flagged, max(self.flagged, watermark.safe)))
        return Mark(watermark.safe, limit, frozenset(watermark.done_above()))


class KafkaDelivery:
    """A record waiting for its verdict."""

    __slots__ = (
        "assigned",
        "lost",
        "malformed",
        "message",
        "number",
        "redelivered",
    )

    def __init__(
        self,
        message: Message,
        malformed: str | None,
        assigned: Assigned,
        number: int,
        redelivered: bool,
    ) -> None:
        self.message: Message = message
        self.malformed: str | None = malformed
        self.assigned: Assigned = assigned
        self.number: int = number
        self.redelivered: bool = redelivered
        self.lost: bool = False

    @property
    def partition(self) -> str:
        """`shop/3`."""
        return self.assigned.name

    @property
    def offset(self) -> str:
        """In its partition."""
        return str(self.number)


Buffer = deque[KafkaDelivery]
