"""How many rows of the outbox a call takes, and how long they may gather before the next one."""

from collections.abc import Sequence

from eventbus.storage.outbox import Outgoing

BATCH, BACKLOG = 500, 2000  # rows a call; and while that many came at once and are light
LIGHT_BYTES = 4 << 20
# After a call of so many the next one comes when twice its time is over: what is read together is
# handled together, and a busy loop would else read the rows of each commit by themselves.
MANY, LONGEST_GATHERING_SECONDS = 50, 0.05


class Pace:
    """Of one relay.

    Args:
        batch: rows a call at most, whatever waits; None: as the load is.
    """

    def __init__(self, batch: int | None) -> None:
        self._batch, self._backlog = batch or BATCH, batch or BACKLOG
        self._wanted = self._batch
        self._carried = self._backlog  # rows that the link takes in the time of a call
        self._full = False

    @property
    def rows(self) -> int:
        """As many may the next call have."""
        return min(self._wanted, self._carried)

    def came(self, found: Sequence[Outgoing]) -> None:
        """What was read: if it is as much as was asked for, more is behind it.

        Then more may come at once, for a call costs less a row the more it has.
        """
        self._full = len(found) == self.rows
        light = sum(len(row.message.payload) for row in found) <= LIGHT_BYTES
        self._wanted = self._backlog if self._full and light else self._batch

    def went(self, confirmed: int) -> None:
        """So many were confirmed in time: an eighth more may be tried."""
        self._carried = min(self._backlog, max(self._carried, confirmed + confirmed // 8 + 1))

    def late(self, tried: int) -> None:
        """A call was not answered in its time.

        As many once more would not be either, and none ever settled: a quarter of it.
        """
        self._carried = max(1, tried // 4)

    def gathering_seconds(self, moved: int, took: float) -> float:
        """What to wait after a call that took so many seconds; 0: more waits already, or little."""
        if moved < MANY or self._full:
            return 0.0
        return min(2 * took, LONGEST_GATHERING_SECONDS)
