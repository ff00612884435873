"""What can happen to a saga."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from eventbus.event import Event, Reply
from eventbus.values import make_quickly

Outcome = Literal["succeeded", "rejected", "cancelled", "undone", "unknown"]


@dataclass(frozen=True, slots=True)
class Started:
    """The event that starts it; for a saga that runs already an ordinary event."""

    event: Event
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """An event that found it."""

    event: Event
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Replied:
    """A participant's answer, by the effect it speaks of."""

    effect_id: UUID
    outcome: Outcome
    reply: Reply | None = None
    message_id: str | None = None


make_quickly(Started, Replied)


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that was due and is deleted."""

    name: str
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class LocalDone:
    """A local step that was run in this transaction.

    `data` is the state that it left, as JSON; None: it was rejected, and its savepoint rolled back.
    """

    effect_id: UUID
    outcome: Outcome
    data: bytes | None = None
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call step that a worker executed, under the fence with which its row was deleted."""

    effect_id: UUID
    fence: int
    outcome: Outcome
    reply: Reply | None = None
    why: str = ""  # what the outside said no with, or how the last attempt failed


@dataclass(frozen=True, slots=True)
class Verb:
    """What an operator wants: retry, skip, resolve, cancel, compensate, pause, resume."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    actor: str = ""
    reason: str = ""


DEAD = "it is a dead letter"


@dataclass(frozen=True, slots=True)
class GaveUp:
    """An input that became a dead letter: every attempt failed, or an operator buried it."""

    message_id: str
    why: str = ""


Input = Started | Received | Replied | TimerFired | LocalDone | CallDone | Verb | GaveUp
