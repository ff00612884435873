"""Sequences of a projection that wait: a row's events, or those of a stream."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from eventbus.handler import RetryPolicy
from eventbus.resilience.retry import failure_of, told, verdict_of
from eventbus.sourcing.projection import RecordedEvent
from eventbus.sourcing.recorded import Recorded
from eventbus.storage.events import RecordedMessage
from eventbus.storage.parking import Parked

log: logging.Logger = logging.getLogger("eventbus.sourcing")

POLICY = RetryPolicy(in_place=0)  # folding is pure: at once it would fail again


class Sequences:
    """Says what a failed or queued event is parked as.

    The body stays in the log: what is parked has its position.
    """

    def __init__(self, random: Random, policy: RetryPolicy = POLICY) -> None:
        self._random = random
        self._policy = policy

    def failed(
        self, event: RecordedEvent, key: str, error: Exception, *, attempt: int, number: int = 0
    ) -> Parked:
        """It failed for the n-th time; what cannot be decoded is dead at once."""
        verdict = verdict_of(error, self._policy, attempt, self._random)
        waits = self.queued(event, key, number=number)
        failure = failure_of(error, verdict, hidden=_hidden(event))
        return replace(waits, attempts=attempt, delay=verdict.delay, failure=failure)

    def again(self, parked: Parked, error: Exception, event: RecordedEvent | None = None) -> Parked:
        """What was parked failed once more; `event` if it is still in the log."""
        attempt = parked.attempts + 1
        verdict = verdict_of(error, self._policy, attempt, self._random)
        failure = failure_of(error, verdict, hidden=_hidden(event))
        return replace(parked, attempts=attempt, delay=verdict.delay, failure=failure)

    def queued(self, event: RecordedEvent, key: str, *, number: int = 0) -> Parked:
        """It stands behind its key. `number`: which of the rows that the event concerns."""
        recorded = event.recorded
        message = recorded.message
        if number:
            message = replace(message, id=f"{message.id}#{number}")
        return Parked(
            message=replace(message, payload=b""),
            key=key,
            attempts=0,
            delay=None,
            origin=f"log:{recorded.stream}@{recorded.version}",
            position=recorded.position,
        )


def log_failures(group: str, parked: Iterable[Parked]) -> None:
    """WARNING for what is tried again, ERROR for a dead letter; what only queues is not told."""
    for one in parked:
        if one.failure is not None:
            log.log(
                logging.ERROR if one.delay is None else logging.WARNING,
                "%s: %s %s, what follows of %s waits: %s",
                group,
                one.origin,
                "is a dead letter" if one.delay is None else f"is parked for {one.delay}",
                one.key,
                told(one.failure),
            )


def _hidden(event: RecordedEvent | None) -> Sequence[str]:
    return event.hidden if isinstance(event, Recorded) else ()


def number_of(parked: Parked) -> int:
    """Which of the rows that the event concerns."""
    _, mark, number = parked.message.id.rpartition("#")
    return int(number) if mark and number.isdecimal() else 0


def row_key(text: str) -> str:
    """What the events of a row are parked under."""
    return f"row:{text}"


def stream_key(recorded: RecordedMessage) -> str:
    """What is parked as long as nobody knows which rows an event concerns."""
    tenant = recorded.tenant
    return f"stream:{tenant}/{recorded.stream}" if tenant else f"stream:{recorded.stream}"
