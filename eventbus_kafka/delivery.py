"""A record waiting for its verdict, and the partition it came from."""

from aiokafka import TopicPartition

from eventbus.message import Message
from eventbus_kafka.watermark import Mark, Watermark


class Assigned:
    """A partition during one assignment: what was handed out, what is finished, what to commit."""

    __slots__ = (
        "flagged",
        "halted",
        "handed",
        "is_closed",
        "limit",
        "name",
        "part",
        "seen",
        "sent",
        "skipped",
        "stuck_at",
        "stuck_since",
        "watermark",
    )

    def __init__(self, part: TopicPartition, epoch: int, mark: Mark) -> None:
        self.part = part
        self.name = f"{part.topic}/{part.partition}"
        self.watermark = Watermark(epoch, mark.offset)
        self.flagged = mark.limit  # below it an earlier start cannot be ruled out
        self.skipped = mark.done  # acknowledged before, above what could be committed
        self.seen = mark.offset  # above everything that was fetched
        self.handed = mark.offset  # above everything that was handed out
        self.limit = mark.offset  # nothing at or above it is handed out before a commit
        self.sent: Mark | None = None  # what the broker holds
        self.halted: str | None = None  # why nothing more is fetched
        self.stuck_since: float | None = None
        self.stuck_at = -1
        self.is_closed = False

    def may_fetch(self, now: float, max_gap: int, max_gap_seconds: float) -> bool:
        """One stuck message must not grow memory and repeats without end."""
        if self.halted is not None:
            return False
        gap = self.watermark.gap
        if not gap:
            self.stuck_since = None
            return True
        if self.stuck_since is None or self.stuck_at != self.watermark.safe:
            self.stuck_since, self.stuck_at = now, self.watermark.safe
        return gap < max_gap and now - self.stuck_since < max_gap_seconds

    def pass_over(self, position: int) -> None:
        """The client's position counts, if nothing is open: below it lies only what was begun.

        Whoever takes records from the client begins them in the same turn of the loop, or closes
        the partition.
        """
        if not self.is_closed:
            self.watermark.pass_over(position)

    def mark(self, ahead: int, *, last: bool = False) -> Mark:
        """What to commit now; `last`: nothing more is handed out."""
        safe = self.watermark.safe
        limit = max(self.handed, self.flagged)
        if not last:
            limit = max(limit, self.seen, safe) + ahead
        return Mark(safe, limit, frozenset(self.watermark.done_above()))


class KafkaDelivery:
    """A record waiting for its verdict."""

    __slots__ = (
        "assigned",
        "epoch",
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
        self.epoch: int = assigned.watermark.epoch
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
