"""What the transactions of one storage share, and what one of them holds back to its end."""

import asyncio
from dataclasses import dataclass, field

from eventbus.sqlite.rows import Row
from eventbus.sqlite.wakeups import Wakeups
from eventbus.sqlite.worker import Worker


@dataclass(slots=True, kw_only=True)
class Desk:
    """What the transactions of one storage share."""

    worker: Worker
    turn: asyncio.Lock  # one transaction at a time, first come first served
    wakeups: Wakeups
    stepwise: bool = False
    trouble: str | None = None


@dataclass(slots=True)
class Buffer:
    """Rows of the outbox that are written last; the second of a pair is the delay in ms."""

    now: list[Row] = field(default_factory=list)
    later: list[tuple[Row, int]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing to write."""
        return not self.now and not self.later

    def lengths(self) -> tuple[int, int]:
        """Where a savepoint starts."""
        return len(self.now), len(self.later)

    def cut(self, lengths: tuple[int, int]) -> None:
        """Forget what came after."""
        del self.now[lengths[0] :], self.later[lengths[1] :]

    def message_ids(self) -> list[str]:
        """For who asks what became of the commit."""
        return [row[1] for row in self.now] + [row[1] for row, _ in self.later]
