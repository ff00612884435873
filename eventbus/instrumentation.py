"""What the framework reports about itself: names and labels of `docs/reference/metrics.md`.

Per batch where it can be.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

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
