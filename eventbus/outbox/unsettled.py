"""Rows that a volatile transport holds: in the outbox still, known here, settled once handled."""

from collections.abc import Callable, Collection, Iterable, Sequence

from eventbus.message import Message
from eventbus.storage.outbox import Outgoing

SETTLE_AT, SETTLE_EVERY_SECONDS = 1_000, 0.1
MOST = 10_000  # rows that are out: their groups do not keep up, so no more are read


class Unsettled:
    """What is out, and what of it every group is done with.

    A process that dies leaves these rows in the outbox: the next one sends them again, under the
    same ids, and inboxes recognise what was done.
    """

    def __init__(self, enough: Callable[[], None]) -> None:
        self._enough = enough
        self._out: dict[tuple[str, str], Outgoing] = {}
        self._handled: list[Outgoing] = []
        self._reads = 0
        self._gap = False
        self._settled_at = 0.0

    def __len__(self) -> int:
        return len(self._out)

    def going(self, rows: Iterable[Outgoing]) -> None:
        """These are handed over now."""
        self._out.update((_identity(row.message), row) for row in rows)

    def came_back(self, row: Outgoing) -> None:
        """It did not go out: the next read must find it before the later ones of its key."""
        if self._out.pop(_identity(row.message), None) is not None:
            self._gap = True

    def read_all_next(self) -> None:
        """Partitions were taken over: their older rows were never read here."""
        self._gap = True

    def handled(self, messages: Sequence[Message]) -> None:
        """Every group is done with these: their rows may go."""
        for message in messages:
            row = self._out.get(_identity(message))
            if row is not None:
                self._handled.append(row)
        if len(self._handled) >= SETTLE_AT or len(self._handled) == len(self._out):
            self._enough()

    def to_settle(self, now: float) -> Sequence[Outgoing]:
        """Handled rows, many at a time: one that is lost is only sent again, and recognised."""
        few = len(self._handled) < SETTLE_AT and len(self._handled) < len(self._out)
        if few and now - self._settled_at < SETTLE_EVERY_SECONDS:
            return ()
        self._settled_at = now
        return self._handled[:]

    def settled(self, rows: Sequence[Outgoing]) -> None:
        """These, the first that `to_settle` gave, are gone from the outbox."""
        del self._handled[: len(rows)]
        for row in rows:
            self._out.pop(_identity(row.message), None)

    def rows(self, settled: Collection[Outgoing]) -> Collection[int]:
        """The numbers of what is out, besides what is settled now."""
        return {row.row for row in self._out.values()} - {row.row for row in settled}

    def after(self) -> int:
        """The highest row that is out, if all below it are out too: they need not be read again.

        Not once one of them came back: its key goes on from it. And each tenth read starts at the
        beginning, for a lower row may have been committed since.
        """
        self._reads = (self._reads + 1) % 10
        if self._gap or not self._reads:
            return 0
        return max((row.row for row in self._out.values()), default=0)

    def unknown(self, rows: Sequence[Outgoing], *, after: int) -> list[Outgoing]:
        """Of what was read after a row those that are not out."""
        if not after:
            self._gap = False
        if not self._out:
            return list(rows)
        return [row for row in rows if _identity(row.message) not in self._out]


def _identity(message: Message) -> tuple[str, str]:
    return message.source, message.id
