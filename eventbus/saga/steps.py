"""Front end: declarative steps with compensations, in the order of the class body (G2)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

from eventbus.event import Command, Event, Reply, TypedMessage, reply_of
from eventbus.handler import UnitOfWork
from eventbus.saga.declaring import (
    Cancels,
    E,
    P,
    S,
    Starts,
    answer_of,
    command_of,
    marked,
    marks_of,
    members_of,
    migrations_of,
    misuse,
    state_of,
)
from eventbus.saga.definition import (
    AN_HOUR,
    ONCE,
    Definition,
    Missing,
    OnUnknown,
    Resend,
    Route,
    StepSpec,
    definition_of,
)
from eventbus.saga.step_flow import Methods, StepFlow
from eventbus.saga.work import CallContext

__all__ = [
    "CallStep",
    "LocalStep",
    "Saga",
    "Step",
    "call_step",
    "definition_of",
    "local_step",
    "step",
    "wait_step",
]

R = TypeVar("R", bound=Reply)
C = TypeVar("C", bound=Command[Any])
Options = dict[str, Any]


class Saga(Generic[S]):
    """Declarative steps, in the order of the class body.

    Its group is its name; `version` is the state's too.
    """

    __saga_options__: ClassVar[Options] = {}
    __saga_compiler__: ClassVar[Callable[[type[Any]], Definition]]

    def __init_subclass__(
        cls,
        *,
        name: str,
        version: int = 1,
        step_timeout: timedelta | None = None,
        deadline: timedelta | None = None,
    ) -> None:
        super().__init_subclass__()
        cls.__saga_options__ = {
            "saga": name,
            "version": version,
            "step_timeout": step_timeout,
            "deadline": deadline,
        }


@dataclass(frozen=True, slots=True)
class Waits:
    """The method takes what a wait was for."""

    event: type[Event] | None
    timeout: timedelta | None
    delay: timedelta | None
    by: str | None
    missing: Missing


class _Declared:
    """A method that is a step, with what belongs to it."""

    kind: Literal["command", "local", "call"] = "command"

    def __init__(self, method: Any, options: Options) -> None:
        self.method = method
        self.options = options
        self.reply_method: Any = None
        self.undo_method: Any = None

    def _bound(self, saga: object, owner: type[Any]) -> Any:
        return self if saga is None else self.method.__get__(saga, owner)


class Step(_Declared, Generic[S, R]):
    """What `@step` makes of a method; on an instance it is the method."""

    @overload
    def __get__(self, saga: None, owner: type[Any], /) -> "Step[S, R]": ...
    @overload
    def __get__(self, saga: object, owner: type[Any], /) -> Callable[[S], Command[R]]: ...
    def __get__(self, saga: object, owner: type[Any], /) -> Any:
        """The step on the class, the method on an instance."""
        return self._bound(saga, owner)

    def reply(self, method: Callable[[P, S, R], S | None], /) -> Callable[[P, S, R], S | None]:
        """Mark what takes the reply into the state."""
        self.reply_method = method
        return method

    def undo(self, method: Callable[[P, S, R | None], C], /) -> Callable[[P, S, R | None], C]:
        """Mark what undoes the step; the reply is None if its outcome is unknown."""
        self.undo_method = method
        return method


class LocalStep(_Declared, Generic[S]):
    """Runs in the transition's transaction, in a savepoint.

    `raise Reject(...)` rolls it back and is the answer. Never unknown.
    """

    kind: Literal["command", "local", "call"] = "local"

    @overload
    def __get__(self, saga: None, owner: type[Any], /) -> "LocalStep[S]": ...
    @overload
    def __get__(
        self, saga: object, owner: type[Any], /
    ) -> Callable[[S, UnitOfWork], Awaitable[None]]: ...
    def __get__(self, saga: object, owner: type[Any], /) -> Any:
        """The step on the class, the method on an instance."""
        return self._bound(saga, owner)

    def undo(
        self, method: Callable[[P, S, UnitOfWork], Awaitable[None]], /
    ) -> Callable[[P, S, UnitOfWork], Awaitable[None]]:
        """Mark what undoes the step, in the transition's transaction."""
        self.undo_method = method
        return method


class CallStep(_Declared, Generic[S, R]):
    """The worker runs it with no transaction open, under a lease, at least once."""

    kind: Literal["command", "local", "call"] = "call"

    @overload
    def __get__(self, saga: None, owner: type[Any], /) -> "CallStep[S, R]": ...
    @overload
    def __get__(
        self, saga: object, owner: type[Any], /
    ) -> Callable[[S, CallContext], Awaitable[R]]: ...
    def __get__(self, saga: object, owner: type[Any], /) -> Any:
        """The step on the class, the method on an instance."""
        return self._bound(saga, owner)

    def reply(self, method: Callable[[P, S, R], S | None], /) -> Callable[[P, S, R], S | None]:
        """Mark what takes the reply into the state."""
        self.reply_method = method
        return method

    def undo(
        self, method: Callable[[P, S, R | None, CallContext], Awaitable[None]], /
    ) -> Callable[[P, S, R | None, CallContext], Awaitable[None]]:
        """Mark what undoes the call; the reply is None if its outcome is unknown."""
        self.undo_method = method
        return method


@overload
def step(method: Callable[[Any, S], Command[R]], /) -> Step[S, R]: ...
@overload
def step(
    *,
    when: Callable[[Any], bool] | None = None,
    timeout: timedelta | None = None,
    resend: Resend = ONCE,
    on_unknown: OnUnknown | None = None,
    pivot: bool = False,
    parallel: str | None = None,
    no_undo: str | None = None,
    independent_undo: bool = False,
    renamed_from: str | None = None,
) -> Callable[[Callable[[Any, S], Command[R]]], Step[S, R]]: ...
def step(method: Any = None, /, **options: Any) -> Any:
    """Make a step of a method that returns a command.

    Args:
        method: the method, where no option is given.
        options: `when`, of the state: False skips the step. `timeout`: how long the last attempt
            waits; else the saga's `step_timeout`. `resend`: how often. `on_unknown`: what follows
            when no answer comes, "compensate" if not said; to be said on a pivot, where it may not
            be "compensate". `pivot`: after its success the saga only goes forward. `parallel`:
            neighbours of one name start together. `no_undo`: why it needs none.
            `independent_undo`: if it cannot be undone, the other undos go on. `renamed_from`: its
            name in versions before.
    """
    return _declaring(Step, method, options)


@overload
def local_step(method: Callable[[Any, S, UnitOfWork], Awaitable[None]], /) -> LocalStep[S]: ...
@overload
def local_step(
    *,
    when: Callable[[Any], bool] | None = None,
    pivot: bool = False,
    no_undo: str | None = None,
    renamed_from: str | None = None,
) -> Callable[[Callable[[Any, S, UnitOfWork], Awaitable[None]]], LocalStep[S]]: ...
def local_step(method: Any = None, /, **options: Any) -> Any:
    """Make a step of a method that writes by `tx.sql`, in the transition's own transaction.

    Args:
        method: the method, where no option is given.
        options: as of `step`.
    """
    return _declaring(LocalStep, method, options)


@overload
def call_step(method: Callable[[Any, S, CallContext], Awaitable[R]], /) -> CallStep[S, R]: ...
@overload
def call_step(
    *,
    when: Callable[[Any], bool] | None = None,
    timeout: timedelta | None = None,
    resend: Resend = ONCE,
    rejects: tuple[type[Exception], ...] = (),
    on_unknown: OnUnknown | None = None,
    pivot: bool = False,
    no_undo: str | None = None,
    independent_undo: bool = False,
    renamed_from: str | None = None,
) -> Callable[[Callable[[Any, S, CallContext], Awaitable[R]]], CallStep[S, R]]: ...
def call_step(method: Any = None, /, **options: Any) -> Any:
    """Make a step of a method that calls the outside; `call.effect_id` is its idempotency key.

    Args:
        method: the method, where no option is given.
        options: as of `step`; `rejects`: exceptions with which the outside says no, after which
            there is no effect and none will come.
    """
    return _declaring(CallStep, method, options)


def _declaring(kind: Any, method: Any, options: Options) -> Any:
    if method is not None:
        return kind(method, options)
    return lambda function: kind(function, options)


@overload
def wait_step(
    event: type[E],
    /,
    *,
    timeout: timedelta | None = None,
    by: str | None = None,
    missing: Missing = AN_HOUR,
) -> Callable[[Callable[[P, S, E], S | None]], Callable[[P, S, E], S | None]]: ...
@overload
def wait_step(
    *, delay: timedelta
) -> Callable[[Callable[[P, S], S | None]], Callable[[P, S], S | None]]: ...
def wait_step(event: Any = None, /, **options: Any) -> Any:
    """Mark a method as a step that waits for an event, or for a delay.

    Args:
        event: what it waits for; none in time counts as a rejection.
        options: `timeout`, `by` (a field of the event and of the state; else the event's key is
            the business key), `missing` (what becomes of the event without a saga), or `delay`.
    """
    return marked(
        Waits(
            event,
            options.get("timeout"),
            options.get("delay"),
            options.get("by"),
            options.get("missing", AN_HOUR),
        )
    )


@dataclass
class _Compiler:
    cls: type[Saga[Any]]
    steps: list[StepSpec] = field(default_factory=list[StepSpec])
    routes: list[Route] = field(default_factory=list[Route])
    methods: Methods = field(default_factory=Methods)

    def definition(self) -> Definition:
        options = self.cls.__saga_options__
        if not options:
            raise misuse(
                self.cls, "it has no name", 'class PlaceOrder(Saga[…], name="place-order")'
            )
        for name, member in members_of(self.cls):
            self._read(name, member)
        if not self.methods.starts:
            raise misuse(
                self.cls, "nothing starts it", "mark a method with @starts_on(OrderPlaced)"
            )
        steps = tuple(self._timed(spec) for spec in self.steps)
        return Definition(
            **options,
            source=self.cls,
            state=state_of(self.cls, Saga),
            flow=StepFlow(self.cls(), steps, self.methods),
            shape={},
            steps=steps,
            starts=frozenset(self.methods.starts),
            cancels=frozenset(self.methods.cancels),
            routes=tuple(self.routes),
            messages=self._messages(steps),
            migrations=migrations_of(self.cls),
            pure=self._pure(steps),
            undoing={s.name: self.methods.undo[s.name] for s in steps if _takes_reply(s)},
        )

    def _pure(self, steps: tuple[StepSpec, ...]) -> tuple[Any, ...]:
        methods, impure = self.methods, {s.name for s in steps if s.kind in {"local", "call"}}
        named = [*methods.forward.items(), *methods.undo.items()]
        return (
            *methods.starts.values(),
            *methods.cancels.values(),
            *methods.reply.values(),
            *(function for name, function in named if name not in impure),
            *(spec.when for spec in steps if spec.when is not None),
        )

    def _timed(self, spec: StepSpec) -> StepSpec:
        default = self.cls.__saga_options__["step_timeout"]
        if spec.timeout is None and spec.delay is None and spec.kind != "local":
            return replace(spec, timeout=default)
        return spec

    def _read(self, name: str, member: Any) -> None:
        if isinstance(member, _Declared):
            self.steps.append(self._spec(name, member))
            self.methods.forward[name] = member.method
            if member.reply_method is not None:
                self.methods.reply[name] = member.reply_method
            if member.undo_method is not None:
                self.methods.undo[name] = member.undo_method
        for mark in marks_of(member):
            match mark:
                case Waits(event, timeout, delay, by, missing):
                    self.methods.forward[name] = member
                    self.steps.append(
                        StepSpec(name=name, kind="wait", event=event, timeout=timeout, delay=delay)
                    )
                    if event is not None:
                        self.routes.append(Route(event=event, by=by, missing=missing))
                case Starts(event):
                    self._once(self.methods.starts, event, member)
                    self.routes.append(Route(event=event, starts=True))
                case Cancels(event, by, missing):
                    self._once(self.methods.cancels, event, member)
                    self.routes.append(Route(event=event, by=by, missing=missing))
                case _:
                    raise misuse(
                        self.cls,
                        f"{name} is marked for a process",
                        "write it as a step, or derive from Process",
                    )

    def _once(self, methods: dict[type[Event], Any], event: type[Event], member: Any) -> None:
        if event in methods:
            raise misuse(self.cls, f"two methods take {event.__name__}", "keep one of them")
        methods[event] = member

    def _spec(self, name: str, member: _Declared) -> StepSpec:
        options = dict(member.options)
        rejects = options.pop("rejects", ())
        undo = member.undo_method
        spec = StepSpec(
            name=name,
            kind=member.kind,
            undo=None if undo is None else undo.__name__,
            failures=rejects,
            **options,
        )
        if member.kind == "command":
            command = command_of(self.cls, member.method)
            return replace(
                spec,
                command=command,
                replies=reply_of(command),
                rejects=command.__rejects__,
                undo_command=None if undo is None else command_of(self.cls, undo),
            )
        if member.kind == "call":
            answer = answer_of(self.cls, member.method)
            if not (isinstance(answer, type) and issubclass(answer, Reply)):
                raise misuse(self.cls, f"{name} returns {answer!r}", "return a class of Reply")
            for each in rejects:
                if not (isinstance(each, type) and issubclass(each, Exception)):
                    said = f"{name} has rejects={getattr(each, '__name__', each)}, no exception"
                    raise misuse(self.cls, said, "name what the call raises when it is refused")
            return replace(spec, replies=answer)
        return spec

    def _messages(self, steps: tuple[StepSpec, ...]) -> tuple[type[TypedMessage], ...]:
        found: dict[type[TypedMessage], None] = dict.fromkeys(r.event for r in self.routes)
        for spec in steps:
            for each in (spec.command, spec.replies, *spec.rejects, spec.undo_command):
                if each is not None:
                    found[each] = None
            if (
                spec.undo_command is not None
                and (undone := reply_of(spec.undo_command)) is not None
            ):
                found[undone] = None
        return tuple(found)


def _takes_reply(spec: StepSpec) -> bool:
    return spec.undo is not None and spec.kind in {"command", "call"}


def _compiled(cls: type[Any]) -> Definition:
    return _Compiler(cls).definition()


Saga.__saga_compiler__ = _compiled
