"""given(…).when(command).then(events): deciders and aggregates as the pure things they are."""

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from difflib import ndiff
from typing import Any, Generic, TypeVar, overload

from eventbus.event import Event
from eventbus.sourcing.aggregate import Aggregate, emitted_by, happened
from eventbus.sourcing.decider import Decider

C = TypeVar("C")
A = TypeVar("A", bound=Aggregate)


@overload
def given(what: type[A], *events: Event) -> "GivenAggregate[A]": ...
@overload
def given(what: Decider[C, Any], *events: Event) -> "GivenDecider[C]": ...
def given(what: Any, *events: Event) -> "GivenAggregate[Any] | GivenDecider[Any]":
    """A decider, or the class of an aggregate, and what has happened to it; no database, no bus.

    `given(OrderDecider(), OrderPlaced(…)).when(ShipOrder(…)).then(OrderShipped(…))`; an aggregate
    is told by a function: `given(Order, OrderPlaced(…)).when(lambda order: order.ship())`.

    Raises:
        AssertionError: in `when`, `decide` has changed the state it was shown.
    """
    if isinstance(what, type) and issubclass(what, Aggregate):
        return GivenAggregate(what, events)
    return GivenDecider(what, events)


class GivenDecider(Generic[C]):
    """A decider, and the events of its stream so far."""

    def __init__(self, decider: Decider[C, Any], events: Sequence[Event]) -> None:
        self._decider = decider
        self._events = events

    def when(self, command: C) -> "Then":
        """Ask it to decide."""
        state = self._decider.initial()
        for event in self._events:
            state = self._decider.evolve(state, event)
        before = deepcopy(state)
        comparable = before == state
        then = Then.of(lambda: self._decider.decide(command, state))
        if comparable and before != state:
            raise AssertionError(f"decide has changed the state\n- {before!r}\n+ {state!r}")
        return then


class GivenAggregate(Generic[A]):
    """The class of an aggregate, and the events of its stream so far."""

    def __init__(self, cls: type[A], events: Sequence[Event]) -> None:
        self._cls = cls
        self._events = events

    def when(self, command: Callable[[A], object]) -> "Then":
        """Call one of its methods."""
        aggregate = self._cls("given")
        for event in self._events:
            happened(aggregate, event)

        def emitted() -> Sequence[Event]:
            command(aggregate)
            return emitted_by(aggregate)

        return Then.of(emitted)


class Then:
    """What a command led to."""

    def __init__(self, events: Sequence[Event], error: Exception | None) -> None:
        self._events = events
        self._error = error

    @classmethod
    def of(cls, decide: Callable[[], Sequence[Event]]) -> "Then":
        """Keep what it raises for `then_raises`."""
        try:
            return cls(tuple(decide()), None)
        except Exception as error:  # whatever refuses a command
            return cls((), error)

    def then(self, *events: Event) -> None:
        """Exactly these events, in this order.

        Raises:
            AssertionError: others; or what the command raised instead.
        """
        if self._error is not None:
            raise self._error
        if list(self._events) == list(events):
            return
        difference = "\n".join(ndiff([*map(repr, events)], [*map(repr, self._events)]))
        raise AssertionError(f"not these events (- expected, + decided)\n{difference}")

    def then_nothing(self) -> None:
        """No event, and no error.

        Raises:
            AssertionError: something happened; or what the command raised.
        """
        self.then()

    def then_raises(self, error: type[Exception], *, match: str = "") -> None:
        """The command was refused.

        Args:
            error: its class, or one above it.
            match: a regular expression that is found in its text.

        Raises:
            AssertionError: it was not, or with another text; what it raised, if of another class.
        """
        if self._error is None:
            decided = ", ".join(map(repr, self._events)) or "nothing"
            raise AssertionError(f"no {error.__name__}; decided was: {decided}")
        if not isinstance(self._error, error):
            raise self._error
        if not re.search(match, str(self._error)):
            raise AssertionError(f"{match!r} is not found in {str(self._error)!r}")
