"""How far a group is in one partition of a log, and who reads on from there."""

from eventbus.memory.history import PartitionLog
from eventbus.memory.subscription import MemoryDelivery, MemorySubscription
from eventbus.memory.watermark import Watermark


class Cursor:
    """How far a group is in a partition, and which member reads it now."""

    __slots__ = (
        "again_below",
        "committed",
        "given_back",
        "handed",
        "log",
        "name",
        "position",
        "reader",
        "watermark",
    )

    def __init__(self, log: PartitionLog, start: int) -> None:
        self.log: PartitionLog = log
        self.name: str = log.name
        self.committed: int = start
        self.handed: int = start  # behind the highest offset that any member ever got
        self.again_below: int = start  # what lies below may have been started by an earlier member
        self.position: int = start
        self.given_back: bool = False
        self.reader: MemorySubscription | None = None
        self.watermark: Watermark = Watermark(0, start)

    def assign(self, reader: MemorySubscription | None, generation: int) -> None:
        """From now on `reader` gets what lies above the committed offset."""
        self.reader = reader
        self.watermark = Watermark(generation, self.committed)
        self.position = self.committed
        self.again_below = self.handed
        self.given_back = False

    def take(self, room: int, room_bytes: int) -> tuple[list[MemoryDelivery], int]:
        """What is ready, at most `room`, until the bytes are used up; and its size."""
        start, log, epoch = self.position, self.log, self.watermark.epoch
        again, malformed, repeated = self.again_below, log.malformed, log.repeated
        size, batch = 0, list[MemoryDelivery]()
        for number, message in enumerate(log.between(start, start + room), start):
            if size >= room_bytes:
                break
            size += len(message.payload)
            why = malformed.get(number) if malformed else None
            redelivered = number < again or number in repeated
            batch.append(MemoryDelivery(message, why, self, number, epoch, redelivered))
        self.position = start + len(batch)
        self.handed = max(self.handed, self.position)
        self.watermark.begin_all(range(start, self.position))
        return batch, size
