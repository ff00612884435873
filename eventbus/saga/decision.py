"""What `advance` decided: values to be written and sent in one transaction."""

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from eventbus.event import Command, Event
from eventbus.saga.instance import Plan, Stuck
from eventbus.storage.sagas import Arm, CallRequest, JournalEntry, Phase, Status, StepRow
from eventbus.values import make_quickly


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A command to be encoded once, under a new message id; the rest become `saga…` headers."""

    command: Command[Any]
    step: str
    phase: Literal["forward", "undo", "resolve"]
    effect_id: UUID
    target: UUID | None = None  # of undo and resolve: the forward effect
    since: str  # RFC 3339, the first sending of the forward command
    expires: str | None = None  # RFC 3339, a hint


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun:
    """A local step to run now, in a savepoint of this transaction; feed `LocalDone`."""

    effect_id: UUID
    step: str
    phase: Phase
    data: bytes


@dataclass(frozen=True, slots=True)
class Key:
    """From now on events find the saga by this; the tenant is not before the value yet."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The saga after the input, and what goes out with it."""

    status: Status
    paused: bool
    state_name: str | None
    data: bytes
    data_version: int
    intent: str | None
    plan: Plan | None
    error: Stuck | None
    steps: tuple[StepRow, ...] = ()  # upserts by seq and phase
    commands: tuple[Send, ...] = ()
    events: tuple[Event, ...] = ()
    local_runs: tuple[LocalRun, ...] = ()
    calls: tuple[CallRequest, ...] = ()
    arm: tuple[Arm, ...] = ()
    disarm: tuple[str, ...] = ()
    correlations: tuple[Key, ...] = ()
    drain: bool = False  # what was held for this saga is offered again
    journal: JournalEntry
    # "late", "duplicate", "stray", "overdue", "unexpected"; "held": stash it under "#held";
    # "refused: …": a verb that is not allowed now. Only version and journal row are written.
    ignored: str | None = None


make_quickly(Send, Decision)
