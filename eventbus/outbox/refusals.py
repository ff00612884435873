"""What a broker refuses, told once in a while: it is tried again, and would fill the log."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventbus.storage.outbox import Outgoing

log: logging.Logger = logging.getLogger("eventbus.outbox")

AGAIN_SECONDS = 60.0
MOST = 100  # reasons that are remembered


@dataclass(slots=True)
class _Told:
    at: float
    since: int = 0  # refusals that were not told


class Refusals:
    """A line for a reason when it is new, then once a minute with how many there were.

    Args:
        time: of the loop.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._told: dict[str, _Told] = {}

    def tell(self, rejected: Sequence[tuple[Outgoing, str]]) -> None:
        """These were refused."""
        reasons: dict[str, list[Outgoing]] = {}
        for row, reason in rejected:
            reasons.setdefault(reason, []).append(row)
        for reason, rows in reasons.items():
            self._one(reason, rows)

    def _one(self, reason: str, rows: Sequence[Outgoing]) -> None:
        now = self._time()
        told = self._told.get(reason)
        if told is not None and now - told.at < AGAIN_SECONDS:
            told.since += len(rows)
            return
        amount = len(rows) + (0 if told is None else told.since)
        which = f"message {rows[0].message.id}"
        if amount > 1:
            which = f"{amount} times, the last time {which}"
        log.warning("the broker refused %s: %s; it is tried again", which, reason)
        if len(self._told) >= MOST:
            self._told.clear()
        self._told[reason] = _Told(now)
