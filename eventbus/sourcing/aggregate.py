"""Aggregate: state in attributes, changed by events only; a front end on the decider's core."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, ClassVar, Self, TypeVar

from eventbus.errors import SourcingError
from eventbus.event import Event
from eventbus.handler import UnitOfWork
from eventbus.sourcing.attributes import OURS, AttributesForm, defaults_of
from eventbus.sourcing.snapshots import due_every
from eventbus.sourcing.state import Folding, kind_of
from eventbus.storage.events import Appended

A = TypeVar("A", bound="Aggregate")
E = TypeVar("E", bound=Event)


class Aggregate:
    """Declares its state in the class body; methods decide by `emit`, `@applies` methods change.

    `class Order(Aggregate, stream="order")` keeps order `A-1` in the stream `order-A-1`. An object
    lives as long as the unit of work it was loaded in: one of a transaction that was rolled back
    shows what never was.

    Args:
        id: of one that is made in a test; others come from `load`.

    Raises:
        SourcingError: EB4201, on declaring it: no stream, one with a hyphen, two methods that
            apply one event, an `__init__` of its own.
    """

    id: str
    version: int
    __applies__: ClassVar[Mapping[type[Event], str]] = {}
    __reads__: ClassVar[tuple[type[Event], ...]] = ()
    __stream__: ClassVar[str] = ""
    __snapshot__: ClassVar[int] = 0
    __folding__: ClassVar[Folding[Any] | None] = None

    def __init_subclass__(cls, *, stream: str, snapshot: int = 100) -> None:
        super().__init_subclass__()
        if not stream or "-" in stream or snapshot < 0 or "__init__" in vars(cls):
            raise _declared_wrongly(
                cls,
                "stream= is a word without a hyphen, snapshot= counts from 0, and state begins as"
                " the class body says, not in an __init__",
            )
        cls.__stream__ = stream
        cls.__snapshot__ = snapshot
        cls.__applies__ = _appliers(cls)
        cls.__reads__ = tuple(cls.__applies__)
        cls.__folding__ = None

    def __init__(self, id: str = "") -> None:
        self._changing = True
        self.id = id
        self.version = 0
        self._emitted: list[Event] = []
        for name, default in defaults_of(type(self), Aggregate).items():
            setattr(self, name, deepcopy(default))
        self._changing = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in OURS and not self._changing:
            raise _changed_outside(self, name)
        super().__setattr__(name, value)

    @classmethod
    async def load(cls, id: str, tx: UnitOfWork) -> Self:
        """The aggregate as its stream says; one without events as the class body says.

        Raises:
            SourcingError: EB4203, its state cannot be kept in snapshots.
            CodecError: an event of the stream cannot be read.
            NoTransactionError: EB4105, `tx` has no transaction.
        """
        folded = await _folding_of(cls).load(f"{cls.__stream__}-{id}", tx)
        loaded: Self = folded.state
        loaded.version = folded.version
        return loaded

    def emit(self, event: Event) -> None:
        """Let it happen: applied at once, recorded by `save`.

        Raises:
            SourcingError: EB4204, it is no event.
        """
        if not isinstance(event, Event):
            raise _not_an_event(self, event)
        self._apply(event)
        self._emitted.append(event)

    async def save(self, tx: UnitOfWork, *, publish: bool = True) -> Appended | None:
        """Record what was emitted since, and publish it under the same ids; None: nothing was.

        Raises:
            ConcurrencyError: EB5003, somebody was first; nothing was written: load, decide again.
            StreamClosedError: EB5014, the stream is archived or tombstoned.
            SourcingError: EB4204, it has no id.
        """
        if not self._emitted:
            return None
        if not self.id:
            raise _no_id(self)
        appended = await tx.append(
            f"{self.__stream__}-{self.id}",
            tuple(self._emitted),
            expected=self.version,
            publish=publish,
        )
        self.version = appended.version
        self._emitted = []
        return appended

    def _apply(self, event: Event) -> None:
        for base in type(event).__mro__:
            if name := self.__applies__.get(base):
                self._changing = True
                try:
                    getattr(self, name)(event)
                finally:
                    self._changing = False
                return


def applies(what: type[E]) -> Callable[[Callable[[A, E], None]], Callable[[A, E], None]]:
    """Mark the method that changes the state by an event, or by every event of a base class."""

    def mark(function: Callable[[A, E], None]) -> Callable[[A, E], None]:
        function.__applied__ = what  # type: ignore[attr-defined]
        return function

    return mark


def happened(aggregate: A, event: Event) -> A:
    """The same object, after an event that is recorded already."""
    aggregate._apply(event)
    return aggregate


def emitted_by(aggregate: Aggregate) -> tuple[Event, ...]:
    """What `save` would record."""
    return tuple(aggregate._emitted)


def _folding_of(cls: type[A]) -> Folding[A]:
    """On first use: by then every name in its annotations is defined."""
    if cls.__folding__ is None:
        cls.__folding__ = _folding(cls)
    return cls.__folding__


def _folding(cls: type[A]) -> Folding[A]:
    wires = [event.__wire__ for event in cls.__applies__]
    return Folding(
        kind=kind_of(cls),
        begin=lambda stream: cls(stream.removeprefix(f"{cls.__stream__}-")),
        evolve=happened,
        form=None if cls.__snapshot__ == 0 else AttributesForm(cls, Aggregate),
        due=due_every(cls.__snapshot__),
        reads=None if None in wires else {wire.type for wire in wires if wire is not None},
    )


def _appliers(cls: type[Aggregate]) -> dict[type[Event], str]:
    """The method of each event; one that a subclass overrides keeps its mark."""
    found: dict[type[Event], str] = dict(cls.__applies__)
    here: dict[type[Event], str] = {}
    for name, function in vars(cls).items():
        event: type[Event] | None = getattr(function, "__applied__", None)
        if event in here:
            raise _declared_wrongly(cls, f"{here[event]} and {name} apply {event.__name__}")
        if event is not None:
            here[event] = name
    return found | here


def _declared_wrongly(cls: type[Aggregate], why: str) -> SourcingError:
    return SourcingError(
        "EB4201",
        f"the aggregate {cls.__name__} is declared wrongly",
        where=f"{cls.__module__}.{cls.__qualname__}",
        why=why,
        next='class Order(Aggregate, stream="order"), one @applies method for each event',
    )


def _changed_outside(aggregate: Aggregate, name: str) -> SourcingError:
    return SourcingError(
        "EB4202",
        f"{name!r} of {type(aggregate).__name__} is changed outside of @applies",
        where=f"{type(aggregate).__stream__}-{aggregate.id}",
        why="what no event says is gone when it is loaded again",
        next="emit an event, and change the attribute in the method that applies it",
    )


def _not_an_event(aggregate: Aggregate, event: object) -> SourcingError:
    return SourcingError(
        "EB4204",
        f"{type(event).__name__} is no event",
        where=f"emit of {type(aggregate).__stream__}-{aggregate.id}",
        why="a stream holds events only",
        next="declare it as a class of Event, and emit an instance",
    )


def _no_id(aggregate: Aggregate) -> SourcingError:
    return SourcingError(
        "EB4204",
        f"this {type(aggregate).__name__} has no id",
        where="save",
        why="it was made, not loaded: which stream it belongs to is not known",
        next=f"{type(aggregate).__name__}.load(id, tx) gives one, also where there is none yet",
    )
