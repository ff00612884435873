"""Watermark: acks out of order -> the offset that is safe to commit (B5)."""

from collections import deque


class Watermark:
    """Pure. `safe` is the next offset to commit: everything below it is finished.

    Only offsets that were begun are tracked, so gaps in the log need no care.
    """

    __slots__ = ("_done", "_open", "epoch", "safe")

    def __init__(self, epoch: int, start: int) -> None:
        self.epoch: int = epoch
        self.safe: int = start
        self._open = deque[int]()
        self._done = set[int]()

    def begin(self, offset: int) -> None:
        """Track an offset; they come ascending, gaps are normal (compaction, markers)."""
        self._open.append(offset)

    def begin_all(self, offsets: range) -> None:
        """`begin` for each of them."""
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
