"""The compiled form of a saga class, and its digest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import UUID

import orjson
from pydantic import BaseModel

from eventbus.errors import Finding
from eventbus.event import Command, Event, Rejection, Reply, TypedMessage
from eventbus.storage.sagas import DefinitionRow, Phase, StepRow
from eventbus.uuids import uuid_of_name

if TYPE_CHECKING:
    from eventbus.saga.draft import Draft

Kind = Literal["command", "local", "call", "wait"]
OnUnknown = Literal["compensate", "resolve", "stuck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """Of a command step, under the same effect id; each wait doubles, with jitter."""

    attempts: int = 1
    first: timedelta = timedelta(seconds=5)
    cap: timedelta = timedelta(minutes=5)

    def wait(self, attempt: int) -> timedelta:
        """How long to wait after that attempt, without jitter."""
        return min(self.first * (1 << min(attempt - 1, 30)), self.cap)


@dataclass(frozen=True, slots=True)
class Stash:
    """An event before its saga waits; what expires becomes a dead letter."""

    ttl: timedelta = timedelta(hours=1)


ONCE: Resend = Resend()
PATIENT: Resend = Resend(attempts=10)  # undos, questions, and steps after the pivot
AN_HOUR: Stash = Stash()
Missing = Stash | Literal["drop", "fail"]  # no saga of that key; @starts_on starts one instead


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """What is known of a step without running its methods."""

    name: str
    kind: Kind = "command"
    command: type[Command[Any]] | None = None
    event: type[Event] | None = None  # that a wait is for
    replies: type[Reply] | None = None
    rejects: tuple[type[Rejection], ...] = ()
    undo: str | None = None  # the name of the method
    undo_command: type[Command[Any]] | None = None
    timeout: timedelta | None = None
    delay: timedelta | None = None  # of a wait for nothing
    resend: Resend = ONCE
    on_unknown: OnUnknown | None = None
    pivot: bool = False
    parallel: str | None = None
    no_undo: str | None = None
    independent_undo: bool = False
    renamed_from: str | None = None
    when: Callable[[Any], bool] | None = None
    failures: tuple[type[Exception], ...] = ()  # what a call's outside says no with

    @property
    def graph(self) -> dict[str, object]:
        """What must not change under a version: no timeouts, no bodies of functions."""
        return {
            "name": self.name,
            "kind": self.kind,
            "message": wire_name(self.command or self.event),
            "reply": wire_name(self.replies),
            "undo": self.undo,
            "undo_message": wire_name(self.undo_command),
            "pivot": self.pivot,
            "parallel": self.parallel,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How an event finds its saga."""

    event: type[Event]
    starts: bool = False
    by: str | None = None  # a field of the event; None: the business key, Message.key
    missing: Missing = AN_HOUR


class Flow(Protocol):
    """What the two front ends differ in: how a saga goes on, and where its commands come from."""

    needs_reply: bool  # whether a step that an operator settles must have a reply

    def begin(self, draft: "Draft", event: Event) -> None:
        """The first state, and what the starting event does."""
        ...

    def spec(self, row: StepRow) -> StepSpec:
        """Of the step that a row belongs to."""
        ...

    def command(self, draft: "Draft", row: StepRow) -> Command[Any]:
        """The forward command, as often as it is sent."""
        ...

    def undo(self, draft: "Draft", row: StepRow, reply: Reply | None) -> Command[Any]:
        """What undoes a command step; None: its outcome is unknown."""
        ...

    def answered(self, draft: "Draft", row: StepRow, reply: Reply) -> None:
        """A reply was recorded for the row."""
        ...

    def waited(self, draft: "Draft", row: StepRow, event: Event | None) -> None:
        """What a wait was for came, or its delay is over."""
        ...

    def received(self, draft: "Draft", event: Event) -> None:
        """An event found the saga, which is open."""
        ...

    def rang(self, draft: "Draft", name: str) -> None:
        """A timer of the author's fired."""
        ...

    def body(self, step: str, phase: Phase) -> Any:
        """What runs a local or call step, or undoes it."""
        ...

    def findings(self, definition: "Definition") -> list[Finding]:
        """What is wrong with what only this front end has."""
        ...

    def onward(self, draft: "Draft") -> bool:
        """Start what comes next; whether the status changed."""
        ...


class Method(Protocol):
    """A method of the saga class, bound."""

    def __call__(self, *arguments: Any) -> Any:
        """Pure, but for bodies of local and call steps."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """From one version of the state to the next."""

    from_version: int
    function: Callable[[dict[str, Any]], dict[str, Any]]
    steps: Mapping[str, str] = field(default_factory=dict[str, str])  # old name: new name


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One version of a saga class."""

    saga: str
    version: int
    source: type[Any]  # the class it was compiled from
    state: type[BaseModel]
    flow: Flow

    shape: Mapping[str, object]  # of a process: its states and what leads from one to the next
    steps: tuple[StepSpec, ...] = ()  # of a process: none, its steps are in its methods
    step_timeout: timedelta | None = None
    deadline: timedelta | None = None
    by_field: bool = True  # `by=` names a field of the state too; a process says Correlate
    starts: frozenset[type[Event]] = frozenset()
    cancels: frozenset[type[Event]] = frozenset()
    routes: tuple[Route, ...] = ()
    messages: tuple[type[TypedMessage], ...] = ()  # all that its methods name
    migrations: tuple[Migration, ...] = ()
    pure: tuple[Callable[..., Any], ...] = ()  # the author's functions that must do no I/O
    undoing: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict[str, Callable[..., Any]]
    )  # undos that take a reply, by the name of their step

    @cached_property
    def graph(self) -> bytes:
        """Names, kinds, order, pivot, undos and message types."""
        graph = {**self.shape, "steps": [spec.graph for spec in self.steps]}
        return orjson.dumps(graph, option=orjson.OPT_SORT_KEYS)

    @cached_property
    def digest(self) -> bytes:
        """Of the graph: it tells a definition that was changed without a new version."""
        return sha256(self.graph).digest()

    @property
    def row(self) -> DefinitionRow:
        """As workers register it."""
        return DefinitionRow(
            saga=self.saga, version=self.version, digest=self.digest, graph=self.graph
        )

    @cached_property
    def by_name(self) -> Mapping[str, StepSpec]:
        """The declared steps."""
        return {spec.name: spec for spec in self.steps}

    @cached_property
    def by_type(self) -> Mapping[str, type[TypedMessage]]:
        """The messages by wire type."""
        return {name: cls for cls in self.messages if (name := wire_name(cls)) is not None}

    @cached_property
    def correlated(self) -> tuple[str, ...]:
        """Fields of the state by which events find the saga."""
        return tuple(dict.fromkeys(r.by for r in self.routes if r.by in self.state.model_fields))

    @cached_property
    def has_local_steps(self) -> bool:
        """Such a saga needs savepoints, and smaller batches."""
        return any(spec.kind == "local" for spec in self.steps)

    @cached_property
    def has_calls(self) -> bool:
        """Such a saga has steps that its worker executes."""
        return any(spec.kind == "call" for spec in self.steps)

    @cached_property
    def has_pivot(self) -> bool:
        """Whether a declared step is the pivot."""
        return any(spec.pivot for spec in self.steps)

    @cached_property
    def reads_from(self) -> frozenset[int]:
        """Versions whose open sagas this one can take over, itself included."""
        known = {self.version}
        for migration in sorted(self.migrations, key=lambda each: -each.from_version):
            if migration.from_version + 1 in known:
                known.add(migration.from_version)
        return frozenset(known)


def definition_of(cls: type[Any]) -> Definition:
    """The compiled form of a saga class, made once per class.

    Raises:
        WiringError: EB1230, the class cannot be read.
    """
    known: Definition | None = cls.__dict__.get("__saga_definition__")
    if known is None:
        compiler: Callable[[type[Any]], Definition] = cls.__saga_compiler__
        known = compiler(cls)
        cls.__saga_definition__ = known
    return known


def wire_name(message: type[TypedMessage] | None) -> str | None:
    """What the class is called on the wire."""
    return None if message is None or message.__wire__ is None else message.__wire__.type


def effect_of(saga_id: UUID, step: str, occurrence: int, phase: str) -> UUID:
    """The same on every attempt; undo and resolve have their own."""
    return uuid_of_name(saga_id, f"{step}\x1f{occurrence}\x1f{phase}")
