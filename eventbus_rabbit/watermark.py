"""Watermark: verdicts out of order -> the fewest acks that say the same (B5)."""

from collections.abc import Sequence
from typing import NamedTuple

GAP_SECONDS = 0.1


class Acks(NamedTuple):
    """What to send now: everything up to `prefix`, and some above a gap one by one."""

    prefix: int | None
    singles: Sequence[int]


NO_ACKS = Acks(None, ())


class Watermark:
    """Pure; of one channel, whose tags count up from 1 without gaps.

    A tag is sent at most once: the broker closes the channel over a tag it does not know. A prefix
    is sent with a tag that is still open there, for the same reason.
    """

    __slots__ = ("_gap_since", "_late", "_passed", "_prefix", "_sent", "unsent")

    def __init__(self) -> None:
        self.unsent: int = 0  # finished, but the broker does not know yet
        self._passed = 0  # every tag up to here is finished or given back
        self._prefix: int | None = None  # the highest finished tag up to there that was not sent
        self._late = set[int]()  # finished above a gap, not sent
        self._sent = set[int]()  # above a gap: sent by itself, or given back
        self._gap_since: float | None = None

    def finish(self, tag: int) -> None:
        """Note a verdict; each tag once."""
        self.unsent += 1
        if tag == self._passed + 1:
            self._passed = self._prefix = tag
            if self._late or self._sent:
                self._advance()
        else:
            self._late.add(tag)

    def give_back(self, tag: int) -> None:
        """Somebody told the broker that it is not done; each tag once."""
        self._sent.add(tag)
        self._advance()

    def _advance(self) -> None:
        late, sent = self._late, self._sent
        while True:
            following = self._passed + 1
            if following in late:
                late.remove(following)
                self._prefix = following
            elif following in sent:
                sent.remove(following)
            else:
                break
            self._passed = following
        if not late:
            self._gap_since = None

    def due(self, now: float, *, all: bool = False) -> Acks:
        """What to send at this time; it counts as sent.

        Args:
            now: seconds, of any clock.
            all: also what waits for a gap to close, however young.
        """
        prefix, self._prefix = self._prefix, None
        singles: Sequence[int] = ()
        if self._late:
            if self._gap_since is None:
                self._gap_since = now
            if all or now - self._gap_since >= GAP_SECONDS:
                singles = sorted(self._late)
                self._sent |= self._late
                self._late.clear()
                self._gap_since = None
        self.unsent = len(self._late)
        return Acks(prefix, singles)
