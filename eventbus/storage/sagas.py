"""Saga rows: every method takes many, in one lock order.

Times are the database's: what goes in is a delay.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from eventbus.message import Message
from eventbus.values import make_quickly

Status = Literal["running", "resolving", "compensating", "stuck", "completed", "compensated"]
StepStatus = Literal[
    "ready", "dispatched", "succeeded", "rejected", "cancelled", "unknown", "skipped", "failed"
]
Phase = Literal["forward", "undo"]

LOOKED_AFTER = timedelta(seconds=1)  # a timer that is due later needs no hint
HELD = "#held"  # the name under which a saga holds, by its id, what it cannot take now
EFFECTS_ARE_KEPT = timedelta(days=90)  # at least; a command that is older meets no fence


@dataclass(frozen=True, slots=True)
class Correlation:
    """What finds a saga: its type, the name of a key, the key's value."""

    saga: str
    name: (
        str  # "": the business key, Message.key; "#held": what came while it was paused, by saga id
    )
    value: str  # with a tenant "<tenant>/<value>", as keys have it


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionRow:
    """One version of a saga class, compiled."""

    saga: str
    version: int
    digest: bytes
    graph: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStart:
    """Inserted as `running` at version 0; the first transition follows in the same transaction."""

    saga_id: UUID
    saga: str
    key: str
    definition: int
    digest: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step of one saga in one phase."""

    seq: int  # order of starting
    phase: Phase
    name: str
    occurrence: int = 0
    kind: Literal["command", "local", "call", "wait"]
    effect_id: UUID
    status: StepStatus
    attempt: int = 0
    reply_type: str | None = None
    reply: bytes | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fired:
    """A timer that was due; it is deleted."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRecord:
    """An instance as it was locked, with its steps and the database's time."""

    saga_id: UUID
    saga: str
    key: str
    definition: int
    digest: bytes
    status: Status
    paused: bool
    intent: str | None
    state_name: str | None
    data: bytes
    data_version: int  # of the code that wrote data
    plan: bytes | None
    error: bytes | None
    version: int
    steps: Sequence[StepRow]
    fired: Sequence[Fired] = ()  # by lock_due: deleted, to be acted on now
    now: datetime


@dataclass(frozen=True, slots=True)
class Arm:
    """A timer: a delay, to which the database adds its clock."""

    name: str
    epoch: int  # the saga's version when it was armed
    delay: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A call step that a worker is to execute."""

    effect_id: UUID
    seq: int
    phase: Phase
    step: str
    input: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One transition: enough to run it again."""

    version: int
    input_kind: str
    input_id: str | None
    from_status: Status | None
    to_status: Status
    detail: bytes
    actor: str | None
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaChange:
    """All transitions of one saga in one transaction."""

    saga_id: UUID
    was: int  # the version that lock() said: in the WHERE
    version: int
    definition: int
    digest: bytes
    status: Status  # a final one deletes what timers are left
    paused: bool  # changed: freezes or thaws the timers
    intent: str | None
    state_name: str | None
    data: bytes
    data_version: int
    plan: bytes | None
    error: bytes | None
    steps: Sequence[StepRow] = ()  # upserts by seq and phase
    arm: Sequence[Arm] = ()
    disarm: Collection[str] = ()
    calls: Sequence[CallRequest] = ()
    correlations: Sequence[Correlation] = ()
    journal: Sequence[JournalEntry]

    @property
    def is_urgent(self) -> bool:
        """Whether who waits for timers and calls is told: they look once in `LOOKED_AFTER`."""
        return bool(self.calls) or any(arm.delay < LOOKED_AFTER for arm in self.arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stashed:
    """An input that came before its saga, or while it was paused."""

    key: Correlation
    message: Message
    ttl: timedelta | None  # None: until drained
    row: int = 0  # given by drain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Claimed: ours until the lease ends, or somebody draws a higher fence."""

    effect_id: UUID
    saga_id: UUID
    saga: str
    definition: int
    seq: int
    phase: Phase
    step: str
    input: bytes
    attempt: int
    owner: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectStart:
    """`executing` by a forward command, `fenced` by undo and resolve."""

    effect_id: UUID  # of the forward command
    state: Literal["executing", "fenced"]
    saga_id: UUID | None  # None: sent outside a saga
    step: str = ""
    lease: timedelta | None = None  # for work outside a transaction; ended: taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRow:
    """What stands in the fence; `undone` keeps the reply of the forward command too."""

    effect_id: UUID
    new: bool  # ours to run: inserted now, or taken over
    state: Literal["executing", "done", "rejected", "fenced", "undone", "unknown"]
    reply_type: str | None = None
    reply: bytes | None = None
    undo_reply_type: str | None = None
    undo_reply: bytes | None = None
    fence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectEnd:
    """How the work on an effect ended; `executing`: it failed, and is free to be taken over."""

    effect_id: UUID
    state: Literal["done", "rejected", "undone", "unknown", "executing"]
    reply_type: str | None = None  # of the undo if `undone`
    reply: bytes | None = None
    fence: int = 0  # in the WHERE


make_quickly(
    Correlation,
    SagaStart,
    StepRow,
    SagaRecord,
    Arm,
    JournalEntry,
    SagaChange,
    EffectStart,
    EffectRow,
    EffectEnd,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaQuery:
    """Which sagas an operator looks at; empty or None: all."""

    ids: Collection[UUID] = ()
    saga: str | None = None
    key: str | None = None
    status: Status | None = None
    step: str | None = None  # the one it is at
    older_than: timedelta | None = None  # in its status for longer


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaSummary:
    """A saga as a list shows it; nothing of its state."""

    saga_id: UUID
    saga: str
    key: str
    definition: int
    digest: bytes
    status: Status
    paused: bool
    intent: str | None
    state_name: str | None
    step: str | None  # the last one that is under way, unknown or failed
    error: bytes | None
    version: int
    age: timedelta
    in_status: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmedTimer:
    """A timer that has not fired."""

    saga_id: UUID
    saga: str
    key: str
    name: str
    due_in: timedelta | None  # negative: it is due; None: its saga is paused


@dataclass(frozen=True, slots=True)
class Journalled:
    """A transition as it was written."""

    at: datetime
    entry: JournalEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """How many open sagas of a version are at a step."""

    saga: str
    definition: int
    digest: bytes
    graph: bytes | None  # as the version was registered; None: it never was
    state: str | None  # of a process
    step: str | None
    status: Status
    count: int


class Sagas(Protocol):
    """Locks in one order: keys, then sagas by id, then everything else."""

    async def register(self, definitions: Sequence[DefinitionRow]) -> None:
        """Remember versions; one that stands the same is left alone.

        Raises:
            ConfigurationError: EB7031, a known version with another digest; nothing was written.
        """
        ...

    async def find(self, keys: Collection[Correlation]) -> dict[Correlation, UUID]:
        """The sagas of the keys; a key that has none is left out."""
        ...

    async def lock_keys(self, keys: Collection[Correlation]) -> None:
        """Keep others from starting or stashing by these keys until this transaction ends.

        Only for what `find` missed, and before any saga is locked; then `find` again.
        """
        ...

    async def start(self, starts: Sequence[SagaStart]) -> frozenset[UUID]:
        """Insert; the ids that are new. A business key that stands wins."""
        ...

    async def lock(self, ids: Collection[UUID]) -> Sequence[SagaRecord]:
        """Lock in the order of ids, then read what stands of their steps."""
        ...

    async def lock_due(
        self, definitions: Collection[tuple[str, int]], *, limit: int
    ) -> Sequence[SagaRecord]:
        """Lock sagas that nobody holds, delete their due timers and say them in `fired`."""
        ...

    async def next_due(self, definitions: Collection[tuple[str, int]]) -> timedelta | None:
        """How long until a timer is due: 0 if one is, None if none is armed."""
        ...

    async def save(self, changes: Sequence[SagaChange]) -> None:
        """Write transitions, all or none.

        Raises:
            ConcurrencyError: EB7030, names sagas that are not at `was`: somebody left out the lock.
        """
        ...

    async def stash(self, inputs: Sequence[Stashed]) -> None:
        """Keep inputs; one that is there already under its key is left alone."""
        ...

    async def drain(self, keys: Collection[Correlation]) -> Sequence[Stashed]:
        """Delete and return, in the order in which they were stashed."""
        ...

    async def claim_calls(
        self, definitions: Collection[tuple[str, int]], *, owner: str, ttl: timedelta, limit: int
    ) -> Sequence[Call]:
        """Take calls that are free or whose lease ended, each with a higher fence."""
        ...

    async def renew_calls(self, calls: Sequence[Call], *, ttl: timedelta) -> Sequence[Call]:
        """Extend; those still ours. A ttl of 0 gives back, a longer one is a backoff."""
        ...

    async def finish_calls(self, calls: Sequence[Call]) -> Sequence[Call]:
        """Delete those still ours, before `advance`; what does not come back is dropped."""
        ...

    async def begin_effect(self, effects: Sequence[EffectStart]) -> Sequence[EffectRow]:
        """Insert, or lock the row that stands; aligned with `effects`.

        `executing` takes over a row that is executing under a lease which ended.
        """
        ...

    async def forget_effect(self, ids: Collection[UUID]) -> None:
        """Delete rows that this transaction has made: what was begun did not run to its end."""
        ...

    async def finish_effect(self, effects: Sequence[EffectEnd]) -> None:
        """Store outcomes: of what executes, or `undone` of what is done or unknown.

        `executing` stores none: the lease ends, and the next start takes it over.

        Raises:
            ConcurrencyError: EB7033, an effect is in another state or under a higher fence;
                nothing was written.
        """
        ...

    async def sweep(self, *, older_than: timedelta, limit: int) -> int:
        """Forget at most `limit` of each: finished sagas, expired stash, old effects; how many.

        Expired inputs become dead letters of their saga's group. Effects stay `EFFECTS_ARE_KEPT`,
        or longer if `older_than` is longer.
        """
        ...

    # What operators look at: nothing is locked.

    async def look(self, query: SagaQuery, *, limit: int) -> Sequence[SagaSummary]:
        """Those longest in their status first."""
        ...

    async def timers(
        self, *, ids: Collection[UUID] = (), due: bool = False, limit: int
    ) -> Sequence[ArmedTimer]:
        """What is armed, the next one first; `due`: what should have fired by now."""
        ...

    async def journal(self, saga_id: UUID) -> Sequence[Journalled]:
        """All transitions of a saga, in order."""
        ...

    async def in_flight(self) -> Sequence[InFlight]:
        """Open sagas by type, version, state, step and status."""
        ...
