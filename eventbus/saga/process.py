"""Front end: an event-driven state machine on the same core (G2)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

from eventbus.event import Command, Event, Reply
from eventbus.saga.actions import Actions
from eventbus.saga.declaring import (
    P,
    S,
    Starts,
    command_of,
    marked,
    marks_of,
    members_of,
    migrations_of,
    misuse,
    state_of,
)
from eventbus.saga.definition import AN_HOUR, Definition, Missing, Route, wire_name
from eventbus.saga.naming import messages_named_by
from eventbus.saga.process_flow import INITIAL, OnUnexpected, ProcessFlow, Transition

M = TypeVar("M", bound=Event | Reply)
U = TypeVar("U", bound=Callable[[Any, Any, None], Command[Any]])
Options = dict[str, Any]


class State:
    """A state of a process; its name is the attribute's."""

    def __init__(self) -> None:
        self.name: str = INITIAL

    def __set_name__(self, owner: type[Any], name: str) -> None:
        """Take the name of the attribute."""
        self.name = name


initial: State = State()
"""Before the first `@on`."""


class Process(Generic[S]):
    """Event-driven state machine.

    Its group is its name; `version` is the state's too. `on_unexpected` says what becomes of an
    input that the state has no `@on` for: recorded, held until the state changes, stuck, or failed.
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
        on_unexpected: Literal["record", "hold", "stuck", "fail"] = "record",
    ) -> None:
        super().__init_subclass__()
        cls.__saga_options__ = {
            "saga": name,
            "version": version,
            "step_timeout": step_timeout,
            "deadline": deadline,
            "on_unexpected": on_unexpected,
        }


@dataclass(frozen=True, slots=True)
class On:
    """The method takes an event, a reply or a timer in these states."""

    what: Any
    when: tuple[State, ...]
    to: State | None
    by: str | None
    missing: Missing


@dataclass(frozen=True, slots=True)
class Undoes:
    """The method makes a command that undoes."""


@overload
def on(
    what: type[M],
    /,
    *,
    when: State | tuple[State, ...],
    to: State | None = None,
    by: str | None = None,
    missing: Missing = AN_HOUR,
) -> Callable[[Callable[[P, S, M], Actions]], Callable[[P, S, M], Actions]]: ...
@overload
def on(
    timer: str, /, *, when: State | tuple[State, ...], to: State | None = None
) -> Callable[[Callable[[P, S], Actions]], Callable[[P, S], Actions]]: ...
def on(what: Any, /, **options: Any) -> Any:
    """Mark a method as what is done about an event, a reply or a timer.

    Args:
        what: the class of the message, or the name of a `Timer`.
        options: `when`, the states in which it counts; `to`, the state that follows, else it
            stays; `by`, a field of the event that a `Correlate` names, else `Message.key` is the
            business key; `missing`, what becomes of the event without a saga.
    """
    when = options["when"]
    states = when if isinstance(when, tuple) else (when,)
    by, missing = options.get("by"), options.get("missing", AN_HOUR)
    return marked(On(what, states, options.get("to"), by, missing))


def undo(method: U, /) -> U:
    """Mark what `Do(undo=…)` names: (self, s, reply) -> Command; no reply: outcome unknown."""
    answer: U = marked(Undoes())(method)
    return answer


@dataclass
class _Compiler:
    cls: type[Any]
    starts: dict[type[Event], Any] = field(default_factory=dict[type[Event], Any])
    transitions: list[Transition] = field(default_factory=list[Transition])
    undos: dict[str, Any] = field(default_factory=dict[str, Any])
    routes: list[Route] = field(default_factory=list[Route])
    states: list[str] = field(default_factory=list[str])

    def definition(self) -> Definition:
        options = dict(self.cls.__saga_options__)
        if not options:
            raise misuse(self.cls, "it has no name", 'class Orders(Process[…], name="orders")')
        for name, member in members_of(self.cls):
            self._read(name, member)
        if not self.starts:
            raise misuse(
                self.cls, "nothing starts it", "mark a method with @starts_on(OrderPlaced)"
            )
        on_unexpected: OnUnexpected = options.pop("on_unexpected")
        functions = [*self.starts.values(), *(t.method for t in self.transitions)]
        functions += self.undos.values()
        named = messages_named_by(functions)
        told = [t.what for t in self.transitions if isinstance(t.what, type)]
        flow = ProcessFlow(
            self.cls(),
            states=tuple(self.states),
            starts=self.starts,
            transitions=tuple(self.transitions),
            undos=self.undos,
            undo_commands={n: command_of(self.cls, m) for n, m in self.undos.items()},
            messages=named,
            on_unexpected=on_unexpected,
            step_timeout=options["step_timeout"],
        )
        return Definition(
            **options,
            source=self.cls,
            state=state_of(self.cls, Process),
            flow=flow,
            shape=self._shape(),
            by_field=False,
            starts=frozenset(self.starts),
            routes=tuple(self.routes),
            messages=tuple(dict.fromkeys([*self.starts, *told, *named])),
            migrations=migrations_of(self.cls),
            pure=tuple(functions),
            undoing=self.undos,
        )

    def _read(self, name: str, member: Any) -> None:
        if isinstance(member, State):
            self.states.append(name)
        for mark in marks_of(member):
            match mark:
                case On():
                    self._transition(mark, member)
                case Undoes():
                    self.undos[name] = member
                case Starts(event):
                    if event in self.starts:
                        why = f"two methods take {event.__name__}"
                        raise misuse(self.cls, why, "keep one of them")
                    self.starts[event] = member
                    self.routes.append(Route(event=event, starts=True))
                case _:
                    why = f"{name} is marked for declared steps"
                    raise misuse(self.cls, why, "write it as @on, or derive from Saga")

    def _transition(self, mark: On, member: Any) -> None:
        when = tuple(state.name for state in mark.when)
        to = None if mark.to is None else mark.to.name
        for state in when:
            if any(t.what == mark.what and state in t.when for t in self.transitions):
                name = mark.what if isinstance(mark.what, str) else mark.what.__name__
                why = f"two methods take {name} in state {state!r}"
                raise misuse(self.cls, why, "keep one of them")
        self.transitions.append(Transition(mark.what, when, to, member))
        if isinstance(mark.what, type) and issubclass(mark.what, Event):
            route = Route(event=mark.what, by=mark.by, missing=mark.missing)
            known = [(each.event, each.by) for each in self.routes]
            if (route.event, route.by) not in known:
                self.routes.append(route)

    def _shape(self) -> dict[str, object]:
        return {
            "states": self.states,
            "transitions": [
                [t.what if isinstance(t.what, str) else wire_name(t.what), [*t.when], t.to]
                for t in self.transitions
            ],
            "undos": {n: wire_name(command_of(self.cls, m)) for n, m in self.undos.items()},
        }


def _compiled(cls: type[Any]) -> Definition:
    return _Compiler(cls).definition()


Process.__saga_compiler__ = _compiled
