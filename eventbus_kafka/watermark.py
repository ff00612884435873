"""Verdicts out of order -> the offset that is safe to commit, and what is committed beside it.

Pure (B5; transports.md 3 and 8.2).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_METADATA_BYTES = 4096  # Kafka's default of offset.metadata.max.bytes


class Watermark:
    """`safe` is the next offset to commit: everything below it is finished.

    Only offsets that were begun are tracked, so gaps in the log need no care.
    """

    __slots__ = ("_done", "_open", "epoch", "safe")

    def __init__(self, epoch: int, start: int) -> None:
        self.epoch: int = epoch
        self.safe: int = start
        self._open = deque[int]()
        self._done = set[int]()

    def begin(self, offsets: Iterable[int]) -> None:
        """Track offsets; they come ascending, gaps are normal (compaction, markers)."""
        self._open.extend(offsets)

    def finish(self, offset: int, epoch: int) -> bool:
        """Record a verdict; True if `safe` moved. One from before a rebalance is ignored."""
        if epoch != self.epoch or offset < self.safe:
            return False
        opened, done = self._open, self._done
        if not opened or opened[0] != offset:
            done.add(offset)
            return False
        opened.popleft()
        self.safe = offset + 1
        while done and opened and opened[0] in done:
            self.safe = opened.popleft() + 1
            done.discard(self.safe - 1)
        return True

    def pass_over(self, position: int) -> None:
        """With nothing open, what lies below `position` is nothing for us: markers, gaps."""
        if not self._open and position > self.safe:
            self.safe = position

    @property
    def is_open(self) -> bool:
        """Whether an offset waits for its verdict."""
        return bool(self._open)

    @property
    def gap(self) -> int:
        """Offsets between the first open one and the last one."""
        return self._open[-1] + 1 - self.safe if self._open else 0

    def done_above(self) -> list[int]:
        """Finished offsets above `safe`, ascending."""
        return sorted(self._done)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a group has committed for a partition.

    No offset at or above `limit` was handed out; between `offset` and there, those in `done` have
    their verdict. Kafka keeps this beside the offset, so that the next owner knows what may have
    been started before: Kafka's "redelivered" flag.
    """

    offset: int
    limit: int
    done: frozenset[int] = frozenset()

    @property
    def is_clean(self) -> bool:
        """Nothing was handed out that has no verdict."""
        return self.limit <= self.offset

    def metadata(self) -> str:
        """At most 4,096 bytes; what does not fit is left out of `done`, which is safe."""
        if self.is_clean:
            return "eb1 clean"
        head = f"eb1 open {self.limit - self.offset} "
        room = MAX_METADATA_BYTES - len(head)
        runs: list[str] = []
        for length in _runs(self.offset, sorted(self.done)):
            text = str(length)
            room -= len(text) + 1
            if room < 0:
                break
            runs.append(text)
        return head + ".".join(runs)


def read_mark(offset: int, metadata: str | None, unreadable: int) -> Mark:
    """What an earlier owner left; with nothing readable, anything up to `unreadable` above.

    Never raises: offsets may have been committed by another program.
    """
    words = (metadata or "").split(" ")
    try:
        match words:
            case ["eb1", "clean"]:
                return Mark(offset, offset)
            case ["eb1", "open", limit, runs]:
                lengths = [int(length) for length in runs.split(".") if length]
                done = frozenset(_offsets(offset, lengths))
                return Mark(offset, offset + max(0, int(limit)), done)
    except ValueError:
        pass
    return Mark(offset, offset + unreadable)


def _runs(start: int, done: Iterable[int]) -> Iterator[int]:
    """Lengths of what is open, done, open, done … from `start` on."""
    at, length = start, 0
    for offset in done:
        if length and offset == at + length:
            length += 1
            continue
        if length:
            yield length
            at += length
        yield offset - at
        at, length = offset, 1
    if length:
        yield length


def _offsets(start: int, lengths: Iterable[int]) -> Iterator[int]:
    at, is_done = start, False
    for length in lengths:
        if not 0 <= length <= 1_000_000:
            raise ValueError(length)
        if is_done:
            yield from range(at, at + length)
        at += length
        is_done = not is_done
