"""What the framework reports about itself: names and labels of `docs/reference/metrics.md`.

Per batch where it can be.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Literal, Protocol

from eventbus.errors import CommitUnknownError
from eventbus.message import NO_HEADERS, Message


class Instrumentation(Protocol):
    """Counts, durations and spans; called on the hot path, so it must not block or raise."""

    def count(self, name: str, amount: int = 1, /, **labels: str) -> None: ...
    def observe(self, name: str, seconds: float, /, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, /, **labels: str) -> None: ...
    def creating(self, type: str, topic: str) -> AbstractContextManager[Mapping[str, str]]:
        """Around the making of a message; yields headers to add: traceparent."""
        ...

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """Around a call that hands messages to the broker: relay, direct publish."""
        ...


class NoInstrumentation:
    """Reports nothing."""

    def count(self, name: str, amount: int = 1, /, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Nothing."""

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Nothing."""

    def creating(self, type: str, topic: str) -> AbstractContextManager[Mapping[str, str]]:
        """No headers."""
        return nullcontext(NO_HEADERS)

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


@contextmanager
def handing_over(
    instrumentation: Instrumentation | None, messages: Sequence[Message], *, transport: str
) -> Iterator[None]:
    """Around one call that hands messages to the broker: its span and how long it took.

    A call that failed took its time as well.
    """
    if instrumentation is None:
        yield
        return
    began = perf_counter()
    try:
        with instrumentation.sending(messages):
            yield
    finally:
        seconds = perf_counter() - began
        instrumentation.observe("publish_duration_seconds", seconds, transport=transport)


def count_unknown(
    instrumentation: Instrumentation | None,
    error: BaseException,
    operation: str,
    outcome: Literal["repeated", "raised"],
) -> None:
    """Count an error that leaves open whether a transaction is committed, and no other one."""
    if instrumentation is not None and isinstance(error, CommitUnknownError):
        instrumentation.count("unknown_outcomes_total", operation=operation, outcome=outcome)
