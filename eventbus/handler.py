"""What users write, and what may be wrapped around it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar, overload
from uuid import UUID

from eventbus.errors import WiringError
from eventbus.event import Command, Event, Rejection, Reply, TypedMessage, Untyped
from eventbus.message import NO_HEADERS, Message
from eventbus.personal import Opening
from eventbus.sealing import Keys
from eventbus.storage import Transaction
from eventbus.storage.events import Appended, Expected
from eventbus.storage.sagas import EffectEnd
from eventbus.storage.sql import Sql

T = TypeVar("T")


class UnitOfWork(Protocol):
    """What bus.transaction() yields, and what a handler's Context is.

    Everything in it commits together; nothing leaves before the commit. `publish` and `send`
    return the message id. `delay`: not before so much later, by the database's clock; it needs a
    storage. `headers`: further CloudEvents attributes, lower-case letters and digits.

    Raises:
        CodecError: a message cannot be encoded, or a header is not allowed.
        WiringError: `delay` without a storage, or a `key=` of the class that names no field.
        UnitOfWorkError: EB4106, its block was left already.
    """

    @property
    def sql(self) -> Sql:
        """SQL in this transaction; NoTransactionError where there is none."""
        ...

    @property
    def storage(self) -> Transaction:
        """The contract of the adapter; NoTransactionError where there is none."""
        ...

    async def resource(self, kind: type[T]) -> T:
        """The transaction's own asyncpg.Connection, AsyncSession: leaves portability knowingly.

        Raises:
            LookupError: this storage has none of that kind.
            NoTransactionError: there is no transaction here.
        """
        ...

    @property
    def tenant(self) -> str:
        """Whose flow it is: that of the message being handled, or `transaction(tenant=)`."""
        ...

    async def openings(self, messages: Sequence[Message]) -> Sequence[Opening | None]:
        """With what messages are to be decoded, aligned; keys are read once for all of them."""
        ...

    async def keys(self, sealed: Sequence[bytes]) -> Keys:
        """The keys of what was sealed as a whole; those that are not there are left out."""
        ...

    def decode(self, message: Message, opening: Opening | None = None) -> TypedMessage:
        """A message of the log, by the bus's registry, in its current version.

        Args:
            message: of the log.
            opening: what `openings` answered; without it personal fields are `Sealed`.

        Raises:
            CodecError: its type is unknown, or it cannot be read.
        """
        ...

    def afterwards(self, name: str, work: "Callable[[UnitOfWork], Awaitable[None]]") -> None:
        """Let the bus do it beside the traffic, in a unit of work of its own: whatever becomes of
        this one, at most once, and not at all if the process ends before.

        What may be left out, a snapshot: it fails into the log. One of the same name that waits
        already stands for both; without a bus nothing is done.
        """
        ...

    @overload
    async def publish(
        self,
        what: Event,
        *,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str: ...
    @overload
    async def publish(
        self,
        what: str,
        data: Mapping[str, Any],
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str: ...
    async def send(
        self,
        command: Command[Any],
        *,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str: ...
    async def append(
        self, stream: str, events: Sequence[Event], *, expected: Expected, publish: bool = True
    ) -> Appended:
        """Record events in a stream, and publish them under the same ids unless told otherwise.

        Args:
            stream: its name; what stands before the first `-` is its category.
            events: in this order, all of them or none.
            expected: the version the stream must have; "absent": it must not exist, "present": it
                must, "any": whatever it is.
            publish: False: they stay in the log.

        Raises:
            ConcurrencyError: EB5003, the stream is elsewhere; `error.conflicting` is what was
                recorded instead. Nothing was written, and the transaction can go on.
            StreamClosedError: EB5014, it was archived or tombstoned.
            StorageError: EB5015, no events, or no name.
            NoTransactionError: EB4105, there is no storage here.
        """
        ...


class Context(UnitOfWork, Protocol):
    """What a handler may ask for as its second argument."""

    @property
    def message(self) -> Message: ...
    @property
    def group(self) -> str: ...
    @property
    def attempt(self) -> int:
        """From 1; attempts in place are not counted."""
        ...

    @property
    def replaying(self) -> bool:
        """True in a replay: side effects are off."""
        ...

    @property
    def idempotency_key(self) -> str:
        """`<group>:<message identity>`, the same on every attempt.

        For calls outside the database. Of a command that a saga sent, its effect id stands for the
        identity: the saga sends it again under other message ids.
        """
        ...


class Retry(Exception):  # noqa: N818 - an answer of a handler, no error
    """Raised by a handler: try again after so long, whatever the policy says."""

    def __init__(self, *, after: timedelta, counted: bool = True) -> None:
        super().__init__(f"again after {after}")
        self.after = after
        self.counted = counted


class DeadLetter(Exception):  # noqa: N818
    """Raised by a handler: no further attempt, whatever the policy says."""


class Reject(Exception):  # noqa: N818
    """Raised in `@handles`: what the handler wrote is rolled back, the rejection is the answer."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(type(rejection).__name__)
        self.rejection = rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Read in this order (B7)."""

    in_place: int = 2  # again at once, transaction open, at most 1 s in all
    parked: Sequence[timedelta] = (
        timedelta(seconds=5),
        timedelta(seconds=30),
        timedelta(minutes=2),
        timedelta(minutes=10),
    )
    # then parked with its key, each wait +-20 %; after the last: dead letter
    dead_letter_on: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """The unit of consumption: consumer group, failure domain, order, lanes (B4).

    Two that differ under one name: WiringError.
    """

    name: str
    order: Literal["key", "none"] = "key"
    transactional: bool = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: timedelta = timedelta(seconds=30)
    lanes: int = 16
    max_in_flight: int = 1000
    batch_messages: int = 100  # this and the next two: transports.md 2.2
    batch_bytes: int = 1 << 20
    batch_time: timedelta = timedelta(milliseconds=500)
    start: Literal["earliest", "latest"] = (
        "earliest"  # of a group that the broker does not know yet
    )
    on_give_up: Literal["dead-letter", "block"] = "dead-letter"  # without a storage


M = TypeVar("M", bound=Event)
N = TypeVar("N", bound=Event)
W = TypeVar("W")
R = TypeVar("R", bound=Reply)
C = TypeVar("C", bound=Command[Any])
Done = TypeVar(
    "Done", Awaitable[None], None
)  # a synchronous handler runs in a bounded thread pool and has no ctx.sql


class Subscriber(Protocol[W]):
    """Marks a function or a method and returns it unchanged (B3)."""

    @overload
    def __call__(
        self, handler: Callable[[W, Context], Done], /
    ) -> Callable[[W, Context], Done]: ...
    @overload
    def __call__(self, handler: Callable[[W], Done], /) -> Callable[[W], Done]: ...
    @overload
    def __call__(
        self, handler: Callable[[Any, W, Context], Done], /
    ) -> Callable[[Any, W, Context], Done]: ...
    @overload
    def __call__(self, handler: Callable[[Any, W], Done], /) -> Callable[[Any, W], Done]: ...


@overload
def subscribe(
    what: type[M], /, *, group: str | Group, filter: Callable[[M], bool] | None = None
) -> Subscriber[M]: ...
@overload
def subscribe(what: type[M], other: type[N], /, *, group: str | Group) -> Subscriber[M | N]: ...
@overload
def subscribe(
    what: type[M], /, *, group: str | Group, batch: Literal[True]
) -> Subscriber[Sequence[M]]: ...
@overload
def subscribe(what: str, /, *, group: str | Group) -> Subscriber[Untyped]: ...
def subscribe(
    what: Any, /, *more: Any, group: str | Group, batch: bool = False, filter: Any = None
) -> Any:
    """Mark a function or a method as a handler of events; it is returned unchanged (B3).

    Hand the function, the bound method, or the module that holds them to the bus; nothing is
    registered here.

    Args:
        what: a message class; a base class without a type: all its known subclasses; a name or a
            wildcard `topic.*`.
        more: further classes.
        group: the unit of consumption; a plain name is a group with the defaults (B4).
        batch: the handler gets what a lane's batch has of its type, as a sequence in one savepoint.
        filter: says no: recorded and acknowledged, not run.
    """
    return _marker(Mark((what, *more), _group(group), batch=batch, filter=filter))


def handles(
    command: type[Command[R]], /, *, group: str | Group
) -> Callable[[Callable[[C, Context], Awaitable[R]]], Callable[[C, Context], Awaitable[R]]]:
    """Mark the one handler of a command; the reply is checked against the command (G5).

    Of a command that a saga sent it runs at most once, and not at all after its undo; the reply, or
    what `Reject` carries, goes to the saga with the transaction of what the handler wrote.
    """
    marker: Callable[..., Any] = _marker(Mark((command,), _group(group), kind="command"))
    return marker


def undoes(
    forward: Callable[[Any, Context], Awaitable[R]], command: type[C], /
) -> Callable[
    [Callable[[C, R, Context], Awaitable[None]]], Callable[[C, R, Context], Awaitable[None]]
]:
    """Mark what takes back what `forward` did, in its group; it gets the reply that was sent.

    Called only if `forward` was done, and once; an undo that arrives first bars it for ever.

    Raises:
        WiringError: EB1250, `forward` carries no `@handles`.
    """
    found = [mark for mark in marks_of(forward) if mark.kind == "command"]
    if not found:
        raise _nothing_to_undo(forward)
    mark = Mark((command,), found[0].group, kind="undo", undoes=found[0].what[0])
    marker: Callable[..., Any] = _marker(mark)
    return marker


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator left on a function, read when the bus is built."""

    what: tuple[Any, ...]
    group: Group
    batch: bool = False
    filter: Callable[[Any], bool] | None = None
    kind: Literal["event", "command", "undo"] = "event"
    undoes: type[Command[Any]] | None = None  # of an undo: the forward command


def marks_of(handler: object) -> tuple[Mark, ...]:
    """The marks of a function or bound method, in the order in which they read."""
    marks: tuple[Mark, ...] = getattr(handler, "__eventbus__", ())
    return marks


def reads_of(thing: object) -> tuple[type[TypedMessage], ...]:
    """The message classes that a handed-over thing reads from the log: an aggregate's."""
    reads: tuple[type[TypedMessage], ...] = getattr(thing, "__reads__", ())
    return reads


def _nothing_to_undo(forward: object) -> WiringError:
    name = getattr(forward, "__qualname__", repr(forward))
    return WiringError(
        "EB1250",
        f"{name} handles no command",
        where=f"@undoes({name}, …)",
        why="an undo takes back what one handler of a command did, and goes by its marks",
        next="mark it with @handles(…, group=…), above its undo",
    )


def _group(group: str | Group) -> Group:
    return Group(group) if isinstance(group, str) else group


def _marker(mark: Mark) -> Any:
    def apply(function: Any) -> Any:
        function.__eventbus__ = (mark, *marks_of(function))
        return function

    return apply


class Invocation:
    """One call of one handler, for middleware and batch handlers."""

    __slots__ = ("context", "handler", "what")

    def __init__(
        self,
        handler: Callable[..., Any],
        what: TypedMessage | Untyped | Sequence[TypedMessage | Untyped],
        context: Context,
    ) -> None:
        self.handler: Callable[..., Any] = handler
        self.what: TypedMessage | Untyped | Sequence[TypedMessage | Untyped] = what
        self.context: Context = context


Middleware = Callable[[Invocation, Callable[[Invocation], Awaitable[None]]], Awaitable[None]]
"""Wrapped around each call of a handler: `await call_next(invocation)`, or raise.

A batch is one call: `what` is a sequence, the context that of its first message. Of the messages of
a saga, which decodes for itself, it says the types alone.
"""


@dataclass(slots=True, kw_only=True)
class Effect:
    """What a command of a saga is about, between the fence's answer and its own."""

    message: Message  # the command
    effect_id: UUID  # of the forward command
    undo: bool
    new: bool = False  # its row was made by `begin`, or taken over
    fence: int = 0
    runs: bool  # the handler is to be called
    done: Reply | None = None  # of an undo: what the forward command was answered with, if known
    end: EffectEnd | None = None  # what its row becomes; None: it stays as it is
    reply: Message | None = None  # what is sent; until the handler has answered: if nothing runs


class Fence(Protocol):
    """What goes around the handlers of commands that sagas send (sagas.md 9)."""

    async def begin(
        self, commands: Sequence[tuple[Message, bool]], tx: Transaction
    ) -> Sequence[Effect | Exception | None]:
        """Record that they run, or learn why they do not.

        Args:
            commands: each with whether its handler undoes.
            tx: their rows are locked until it ends, in the order of their ids.

        Returns:
            aligned: its effect; or what its message is to be parked with, `Retry` if it runs
            elsewhere at this moment, EB7051 if its headers are not of a saga; None if one before
            it is about the same effect: to be asked again once that one has ended.
        """
        ...

    async def claim(self, message: Message, *, undo: bool, lease: timedelta) -> Effect:
        """As `begin`, in a transaction of its own, for work that is done in none.

        Raises:
            Retry: it runs elsewhere at this moment.
            CodecError: EB7051, its headers are not of a saga.
        """
        ...

    async def answered(self, effect: Effect, answer: Reply | None, tx: Transaction | None) -> None:
        """Note what the handler answered, None of an undo; raises what encoding raises."""
        ...

    async def finish(self, effects: Sequence[Effect], tx: Transaction) -> None:
        """Store the answers, and send them."""
        ...

    async def forget(self, effects: Sequence[Effect], tx: Transaction) -> None:
        """They were begun in this transaction, and did not run to their end: no trace is left."""
        ...

    async def give_back(self, effect: Effect, tx: Transaction) -> None:
        """An attempt failed, and the next may begin."""
        ...

    async def give_up(self, effect: Effect, tx: Transaction) -> None:
        """No attempt is left: store that nobody knows what became of it."""
        ...


class BatchHandler(Protocol):
    """What the saga engine is: one call for a lane's batch.

    Answers, aligned, None or the failure to park with.
    """

    async def handle_batch(
        self, calls: Sequence[Invocation], tx: Transaction
    ) -> Sequence[Exception | None]: ...
    async def gave_up(self, call: Invocation, tx: Transaction, *, discarded: bool = False) -> None:
        """In the transaction that buries it, or drops what an operator `discarded` after that."""
        ...
