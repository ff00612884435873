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
    """Rows of the outbox that are written last, and what was recorded in the event log already."""

    now: list[Row] = field(default_factory=list)
    later: list[tuple[Row, int]] = field(default_factory=list)  # a row, its delay in ms
    recorded: list[tuple[str, int]] = field(default_factory=list)  # a message id, its position

    @property
    def empty(self) -> bool:
        """Nothing to write."""
        return not self.now and not self.later

    def lengths(self) -> tuple[int, int, int]:
        """Where a savepoint starts."""
        return len(self.now), len(self.later), len(self.recorded)

    def cut(self, lengths: tuple[int, int, int]) -> None:
        """Forget what came after."""
        del self.now[lengths[0] :], self.later[lengths[1] :], self.recorded[lengths[2] :]

    def message_ids(self) -> list[str]:
        """For who asks what became of the commit."""
        published = [row[1] for row in self.now] + [row[1] for row, _ in self.later]
        return list(dict.fromkeys([*(each for each, _ in self.recorded), *published]))
