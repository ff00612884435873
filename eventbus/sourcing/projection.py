"""Projections as they are declared: `FoldingProjection` with `@projects`, or `Projection`."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args, overload

from eventbus.errors import WiringError
from eventbus.event import Event
from eventbus.sourcing.read_model import ReadModel, Rows
from eventbus.storage.events import RecordedMessage
from eventbus.storage.projections import Runs
from eventbus.storage.sql import Sql

MOST_SHARDS = 256

E = TypeVar("E", bound=Event)
V = TypeVar("V", bound=ReadModel)
P = TypeVar("P")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class RecordedEvent(Protocol):
    """An event with its place in the log; decoded when it is first asked for."""

    @property
    def event(self) -> Event:
        """The current version of it; raises `CodecError` if it cannot be decoded."""
        ...

    @property
    def recorded(self) -> RecordedMessage:
        """The message, its stream, version and position."""
        ...


class View(Protocol):
    """Where a projection writes: live or shadow tables, in the transaction of its checkpoint."""

    @property
    def sql(self) -> Sql:
        """SQL in that transaction."""
        ...

    @property
    def replaying(self) -> bool:
        """Whether side effects are off."""
        ...

    async def publish(self, what: Event) -> None:
        """Through the outbox; counted, not written, while replaying."""
        ...

    def table(self, name: str) -> str:
        """What the table is called here: "orders", or "orders__v8" in a rebuild."""
        ...


class Projection(Protocol):
    """The general form: it writes by itself what it makes of events.

    Without `handles`, a sequence of event classes, it gets every event of the log. With `tables`,
    the names of all that it writes, it can be rebuilt, by `by_stream=True` in several processes:
    then what it writes for the events of one stream concerns no other stream.
    """

    @property
    def name(self) -> str:
        """Of the projection."""
        ...

    async def apply(self, events: Sequence[RecordedEvent], view: View) -> None:
        """Everything in one transaction; if it raises, the events come again one by one."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """What `@projects` says of a method."""

    what: type[Event]
    key: Callable[[Any], Any]
    many: bool  # the function answers an iterable of keys


@dataclass(frozen=True, slots=True)
class Fold:
    """How events of one class change one row, or one row for each of their keys."""

    method: str
    what: type[Event]
    key: Callable[[Any], Any]
    many: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a subclass of `FoldingProjection` declares."""

    name: str
    version: int
    runs: Runs
    shards: int
    rows: Rows
    folds: tuple[Fold, ...]
    by_stream: bool


class FoldingProjection(Generic[V]):
    """One row per key, folded in memory and written by one upsert per batch.

    A missing row is made from the model's defaults. The functions marked with `@projects` are pure:
    they may run several times for an event.

    Args:
        name: of the projection, of its checkpoints and its commands.
        version: counted up when old rows would be wrong under the new code.
        runs: `following`, behind the log; `inline`, in the transaction of the append; `live`, on
            read.
        shards: how many workers can share it.
        by_stream: all events of a row are of one stream, as of `order-7` those of order 7: then
            the parts of a rebuild read only streams of their own.

    Raises:
        WiringError: EB1260 to EB1262, when the class is declared.
    """

    __declared__: ClassVar[Declared | None] = None

    def __init_subclass__(
        cls,
        *,
        name: str,
        version: int = 1,
        runs: Runs = "following",
        shards: int = 1,
        by_stream: bool = False,
        **keywords: Any,
    ) -> None:
        super().__init_subclass__(**keywords)
        if not _NAME.fullmatch(name):
            raise _misdeclared(cls, f"{name!r} is no name: lower case, digits, - and _")
        if version < 1:
            raise _misdeclared(cls, f"version={version}: versions count from 1")
        if runs not in get_args(Runs):
            raise _misdeclared(cls, f"runs={runs!r}: following, inline or live")
        if not 1 <= shards <= MOST_SHARDS:
            raise _misdeclared(cls, f"shards={shards}: from 1 to {MOST_SHARDS}")
        if shards > 1 and runs != "following":
            raise _misdeclared(cls, f"shards={shards}: only what follows has shards")
        cls.__declared__ = Declared(
            name=name,
            version=version,
            runs=runs,
            shards=shards,
            rows=Rows(_model_of(cls)),
            folds=_folds_of(cls),
            by_stream=by_stream,
        )


@overload
def projects(
    what: type[E], *, key: Callable[[E], object]
) -> Callable[[Callable[[P, V, E], V | None]], Callable[[P, V, E], V | None]]: ...
@overload
def projects(
    what: type[E], *, keys: Callable[[E], Iterable[object]]
) -> Callable[[Callable[[P, V, E], V | None]], Callable[[P, V, E], V | None]]: ...
def projects(what: type[Event], *, key: Any = None, keys: Any = None) -> Any:
    """Mark a method: what an event makes of the row with this key; None deletes the row.

    May stand several times on a method, and on several methods for one class: each has its row.

    Args:
        what: the class of the events.
        key: of the event, the key of its row.
        keys: instead of `key`, where an event concerns a row for each product on it: the keys of
            its rows, none is fine. The method is called once for each.

    Raises:
        WiringError: EB1261, no event class with a type, no key function, or two.
    """
    if not is_recorded(what):
        raise _unprojectable(f"@projects({what!r})", "only a class with a type stands in the log")
    given = f"@projects({what.__name__}, key={key!r}, keys={keys!r})"
    if key is not None and keys is not None:
        raise _unprojectable(given, "either key= or keys=")
    function = keys if key is None else key
    if not callable(function):
        raise _unprojectable(given, "it has no key function")

    def mark(method: Any) -> Any:
        if _arity(method) != 3:
            raise _unprojectable(
                f"@projects({what.__name__}) on {getattr(method, '__qualname__', method)}",
                "it takes (self, row, event), and is no coroutine",
            )
        marks = getattr(method, "__projects__", ())
        method.__projects__ = (Mark(what, function, keys is not None), *marks)
        return method

    return mark


def is_recorded(what: object) -> bool:
    """Whether it is an event class that can stand in the log."""
    return isinstance(what, type) and issubclass(what, Event) and what.__wire__ is not None


def declared(projection: type | object) -> Declared | None:
    """What a folding projection, or its class, declares; None: it is none."""
    cls = projection if isinstance(projection, type) else type(projection)
    if issubclass(cls, FoldingProjection):
        found: Declared | None = cls.__declared__
        return found
    return None


def _folds_of(cls: type) -> tuple[Fold, ...]:
    found: dict[str, tuple[Mark, ...]] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if hasattr(member, "__projects__"):
                found[name] = member.__projects__
            else:
                found.pop(name, None)
    folds = tuple(
        Fold(name, one.what, one.key, one.many) for name, marks in found.items() for one in marks
    )
    if not folds:
        raise _misdeclared(cls, "no method is marked with @projects")
    return folds


def _model_of(cls: type) -> type[ReadModel]:
    for base in cls.__mro__:
        for generic in getattr(base, "__orig_bases__", ()):
            for argument in get_args(generic):
                if isinstance(argument, type) and issubclass(argument, ReadModel):
                    return argument
    raise _misdeclared(cls, "it does not name its rows")


def _arity(method: Any) -> int:
    if not callable(method) or getattr(method, "__code__", None) is None:
        return 0
    if method.__code__.co_flags & 0x180:  # a coroutine, or a generator of them
        return 0
    parameters = signature(method).parameters.values()
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return len([one for one in parameters if one.kind in positional and one.default is one.empty])


def _unprojectable(where: str, why: str) -> WiringError:
    return WiringError(
        "EB1261",
        "@projects cannot be used like that",
        where=where,
        why=why,
        next="@projects(OrderPlaced, key=lambda event: event.country), a method (self, row, event)",
    )


def _misdeclared(cls: type, why: str) -> WiringError:
    return WiringError(
        "EB1262",
        f"{cls.__name__} is no projection",
        where=f"class {cls.__module__}.{cls.__qualname__}",
        why=why,
        next='class Revenues(FoldingProjection[Revenue], name="revenue") with @projects methods',
    )
