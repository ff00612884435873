"""Which handlers a group has for a type, a base class, a name, a wildcard; wiring errors."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, Literal

from eventbus.codec import Registry
from eventbus.errors import WiringError
from eventbus.event import Command, TypedMessage, reply_of
from eventbus.handler import BatchHandler, Group, Mark, marks_of, reads_of
from eventbus.message import Message
from eventbus.pubsub.participant_wiring import check_participant
from eventbus.transport import Interest


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function that a group calls, and what it wants."""

    call: Callable[..., Any]
    name: str
    where: str
    group: Group
    what: tuple[type[TypedMessage] | str, ...]
    batch: bool = False
    filter: Callable[[Any], bool] | None = None
    kind: Literal["event", "command", "undo"] = "event"
    undoes: type[Command[Any]] | None = None
    takes_context: bool
    synchronous: bool
    plain: bool  # it can be awaited as it is: nothing goes around it
    batches: BatchHandler | None = None  # it takes what a lane's batch has in one call


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one wire type through a group."""

    handlers: tuple[Handler, ...]  # in the order in which they were handed over; none: not ours
    by_class: bool = False  # one of them wants the class, so the codec must know it
    needs_context: bool = False

    @property
    def batches(self) -> BatchHandler | None:
        """Who takes a lane's batch in one call, and decodes for itself."""
        return self.handlers[0].batches if self.handlers else None


class Routes:
    """The handlers of one group, by wire type."""

    def __init__(self, group: Group, handlers: Sequence[Handler], registry: Registry) -> None:
        self.group = group
        self.handlers: tuple[Handler, ...] = tuple(handlers)
        self._typed: dict[str, list[Handler]] = {}
        self._named: dict[str, list[Handler]] = {}
        self._topics: dict[str, None] = {}
        for handler in handlers:
            for what in handler.what:
                self._add(handler, what, registry)
        self._known: dict[str, Route] = {}

    def of(self, type: str) -> Route:
        """The route of a wire type; worked out once."""
        known = self._known.get(type)
        if known is None:
            known = self._find(type)
            if len(self._known) < 10_000:  # foreign types on a shared topic must not grow memory
                self._known[type] = known
        return known

    def for_message(self, message: Message) -> Route:
        """The route of a message."""
        return self.of(message.type)

    def interest(self, *, letters: bool = False) -> Interest:
        """What the broker must know of the group; `letters`: its dead letters go there."""
        group = self.group
        return Interest(
            group=group.name,
            topics=tuple(self._topics),
            types=tuple(dict.fromkeys((*self._typed, *self._named))),
            order=group.order,
            start=group.start,
            lanes=group.lanes,
            max_in_flight=group.max_in_flight,
            timeout=group.timeout,
            letters=letters,
        )

    def _find(self, type: str) -> Route:
        wildcard = f"{type.partition('.')[0]}.*"
        wanted = [
            *self._typed.get(type, ()),
            *self._named.get(type, ()),
            *self._named.get(wildcard, ()),
        ]
        found = tuple(handler for handler in self.handlers if handler in wanted)
        return Route(found, type in self._typed, any(each.takes_context for each in found))

    def _add(self, handler: Handler, what: type[TypedMessage] | str, registry: Registry) -> None:
        if isinstance(what, str):
            self._named.setdefault(what, []).append(handler)
            known = registry.get(what)
            self._topics[_topic(what) if known is None else _wire_topic(known)] = None
            return
        for cls in _classes(what, handler, registry):
            assert cls.__wire__ is not None  # noqa: S101 - _classes gives wire types only
            self._typed.setdefault(cls.__wire__.type, []).append(handler)
            self._topics[cls.__wire__.topic] = None


def collect(things: Iterable[object]) -> tuple[list[Handler], Registry]:
    """Read what was handed to the bus: handlers, and the classes that reading knows.

    Raises:
        WiringError: with what was found and what was meant.
    """
    handlers: list[Handler] = []
    registry = Registry()
    for thing in things:
        found = list(_handlers_in(thing))
        reads = list(reads_in(thing))
        if not found and not reads and not isinstance(thing, ModuleType):
            raise _no_handler(thing)
        for cls in reads:
            registry.add(cls)
        for handler in found:
            _refuse_twice(handler, handlers)
            handlers.append(handler)
            for cls in _classes_named_by(handler):
                registry.add(cls)
        if isinstance(thing, ModuleType):
            for cls in _classes_defined_in(thing):
                registry.add(cls)
    return handlers, registry


def group_routes(handlers: Sequence[Handler], registry: Registry) -> dict[str, Routes]:
    """The routes of each group, by its name.

    Raises:
        WiringError: EB1206, groups of one name differ; EB1208, a command has more than one handler.
    """
    groups: dict[str, list[Handler]] = {}
    commands: dict[type, Handler] = {}
    for handler in handlers:
        members = groups.setdefault(handler.group.name, [])
        if members and members[0].group != handler.group:
            raise _groups_differ(members[0], handler)
        members.append(handler)
        if handler.kind != "event":
            other = commands.setdefault(handler.what[0], handler)  # type: ignore[arg-type]
            if other is not handler:
                raise _two_handle(other, handler)
    return {name: Routes(members[0].group, members, registry) for name, members in groups.items()}


def named_handler(what: str, function: Callable[..., Any], group: Group) -> Handler:
    """What `bus.subscribe(name, handler)` adds."""
    return _handler(function, Mark((what,), group))


def _handlers_in(thing: object) -> Iterable[Handler]:
    if isinstance(thing, ModuleType):
        for value in vars(thing).values():
            if marks_of(value) and getattr(value, "__module__", None) == thing.__name__:
                yield from _marked(value)
    elif marks_of(thing):
        yield from _marked(thing)
    elif not isinstance(thing, FunctionType | type):
        for name, value in inspect.getmembers_static(thing):
            if marks_of(value):
                yield from _marked(getattr(thing, name))


def _marked(function: Any) -> Iterable[Handler]:
    return [_handler(function, mark) for mark in marks_of(function)]


def _handler(function: Callable[..., Any], mark: Mark) -> Handler:
    where = _where(function)
    for what in mark.what:
        _check_what(what, where)
    if mark.filter is not None and (mark.batch or len(mark.what) != 1):
        raise _misuse(where, "filter= goes with one class, and not with batch=True")
    if mark.batch and len(mark.what) != 1:
        raise _misuse(where, "batch=True goes with one class")
    synchronous = not inspect.iscoroutinefunction(_innermost(function))
    handler = Handler(
        call=function,
        name=getattr(function, "__name__", repr(function)),
        where=where,
        group=mark.group,
        what=mark.what,
        batch=mark.batch,
        filter=mark.filter,
        kind=mark.kind,
        undoes=mark.undoes,
        takes_context=mark.kind == "undo" or _arity(function, where) == 2,
        synchronous=synchronous,
        plain=not synchronous and mark.kind == "event",
    )
    if mark.kind == "command" and (synchronous or not handler.takes_context):
        raise _signature(where, "@handles takes `async def handler(command, ctx) -> Reply`")
    if mark.kind != "event":
        check_participant(function, mark, where)
    return handler


def _check_what(what: object, where: str) -> None:
    if isinstance(what, str):
        topic, dot, fact = what.partition(".")
        if not (topic and dot and fact) or "*" in topic or ("*" in fact and fact != "*"):
            raise WiringError(
                "EB1210",
                f"{what!r} is no name and no wildcard",
                where=where,
                why="a name reads topic.fact; a wildcard is topic.* and nothing else",
                next='subscribe to "user.created" or "user.*"',
            )
    elif not (isinstance(what, type) and issubclass(what, TypedMessage)):
        raise WiringError(
            "EB1204",
            f"{what!r} is nothing to subscribe to",
            where=where,
            why="a handler is for a message class, a name or a wildcard",
            next="name an Event class, or a string like 'user.created'",
        )


def _arity(function: Callable[..., Any], where: str) -> int:
    """1: (event), 2: (event, ctx)."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    needed = [p for p in parameters if p.default is p.empty and p not in positional[:2]]
    needed = [p for p in needed if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    unbound = bool(positional) and positional[0].name == "self"
    if unbound or needed or not positional:
        why = (
            "it is a method without its object"
            if unbound
            else f"it takes ({', '.join(p.name for p in parameters)})"
        )
        raise _signature(where, why)
    return min(len(positional), 2)


def _classes(
    what: type[TypedMessage], handler: Handler, registry: Registry
) -> list[type[TypedMessage]]:
    if what.__wire__ is not None:
        return [what]
    found = [cls for cls in registry.classes if issubclass(cls, what)]
    if not found:
        raise WiringError(
            "EB1212",
            f"{what.__name__} has no type and no known subclass",
            where=handler.where,
            why="a base class stands for its subclasses that the bus knows, and it knows none",
            next="hand over the module that defines them, or subscribe to them by name",
        )
    return found


def _classes_named_by(handler: Handler) -> Iterable[type[TypedMessage]]:
    for what in handler.what:
        if isinstance(what, type):
            yield what
            if issubclass(what, Command):
                yield from _answers(what)
    if handler.undoes is not None:
        yield from _answers(handler.undoes)


def _answers(command: type[Command[Any]]) -> Iterable[type[TypedMessage]]:
    reply = reply_of(command)
    yield from () if reply is None else (reply,)
    yield from command.__rejects__


def _classes_defined_in(module: ModuleType) -> Iterable[type[TypedMessage]]:
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, TypedMessage)
            and value.__module__ == module.__name__
        ):
            yield value


def reads_in(thing: object) -> Iterable[type[TypedMessage]]:
    """A message class itself; what an aggregate applies, or those that a module defines."""
    yield from reads_of(thing)
    if isinstance(thing, type) and issubclass(thing, TypedMessage):
        yield thing
    if isinstance(thing, ModuleType):
        for value in vars(thing).values():
            if isinstance(value, type) and value.__module__ == thing.__name__:
                yield from reads_of(value)


def _refuse_twice(handler: Handler, handlers: Sequence[Handler]) -> None:
    for other in handlers:
        if other.call == handler.call and other.group.name == handler.group.name:
            common = [what for what in handler.what if what in other.what]
            if common:
                raise WiringError(
                    "EB1205",
                    f"{handler.name} is handed over twice for group {handler.group.name!r}",
                    where=handler.where,
                    why="it would run twice for each message",
                    next="hand it over once: the module that holds it, or the function",
                )


def _no_handler(thing: object) -> WiringError:
    name = getattr(thing, "__qualname__", None) or repr(thing)
    marked = isinstance(thing, type) and any(marks_of(value) for value in vars(thing).values())
    return WiringError(
        "EB1204",
        f"{name} is no handler",
        where="handlers= of EventBus",
        why="it is a class whose methods are handlers: they need an object"
        if marked
        else "it carries no @subscribe or @handles",
        next=f"hand over an object: {name}(…)" if marked else "mark it with @subscribe(…, group=…)",
    )


def _groups_differ(one: Handler, other: Handler) -> WiringError:
    fields = [
        name
        for name in Group.__dataclass_fields__
        if getattr(one.group, name) != getattr(other.group, name)
    ]
    return WiringError(
        "EB1206",
        f"two groups {one.group.name!r} differ",
        where=f"{one.where}; {other.where}",
        why="; ".join(
            f"{name}: {getattr(one.group, name)!r} and {getattr(other.group, name)!r}"
            for name in fields
        ),
        next="write Group(…) once and name that value in both places",
    )


def _two_handle(one: Handler, other: Handler) -> WiringError:
    return WiringError(
        "EB1208",
        f"two handlers of the command {_name(one.what[0])}",
        where=f"{one.where}; {other.where}",
        why="a command has exactly one handler",
        next="keep one of them; what others should know is an event",
    )


def _signature(where: str, why: str) -> WiringError:
    return WiringError(
        "EB1207",
        "a handler takes (event) or (event, ctx)",
        where=where,
        why=why,
        next="collaborators come by closure, or hand over a bound method: Mailer(smtp).shipped",
    )


def _misuse(where: str, why: str) -> WiringError:
    return WiringError(
        "EB1209", "subscribe cannot be used like that", where=where, why=why, next="split it up"
    )


def _innermost(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, FunctionType | MethodType):
        return getattr(function, "__call__", function)  # noqa: B004 - an object with async __call__
    return function


def _where(function: Any) -> str:
    code = getattr(_innermost(function), "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    module = getattr(function, "__module__", "?")
    return f"{module}.{name}" + (f" (line {code.co_firstlineno})" if code else "")


def _name(what: object) -> str:
    return what.__name__ if isinstance(what, type) else str(what)


def _topic(name: str) -> str:
    return name.partition(".")[0]


def _wire_topic(cls: type[TypedMessage]) -> str:
    assert cls.__wire__ is not None  # noqa: S101 - registries hold wire types only
    return cls.__wire__.topic
