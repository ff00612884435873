"""Every order, duplicate, loss, time-out and refusal of a saga, over the real `advance` (G6)."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from eventbus.event import Event, TypedMessage
from eventbus.saga.definition import Definition, definition_of
from eventbus.storage.sagas import Status
from eventbus.testing.saga_examples import Examples
from eventbus.testing.saga_invariants import BUILT_IN, Facts, Invariant, World, invariant
from eventbus.testing.saga_machine import Machine
from eventbus.testing.saga_world import Budgets, Fence, Move, Moves, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """The shortest way to a state in which something does not hold."""

    invariant: str
    moves: tuple[str, ...]
    case: str  # a test that goes the same way


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the explorer has seen."""

    saga: str
    states: int
    transitions: int
    decided: int  # how often `advance` was called
    seconds: float
    complete: bool  # False: cut off at `max_states`
    statuses: frozenset[Status]
    violation: Violation | None

    def assert_holds(self) -> None:
        """Fail with the shortest counterexample, as moves and as a test; or if it was cut off.

        Raises:
            AssertionError: an invariant does not hold, or not everything was seen.
        """
        if self.violation is not None:
            moves = "\n".join(f"  {n} {each}" for n, each in enumerate(self.violation.moves, 1))
            raise AssertionError(
                f"{self.saga}: it does not hold that {self.violation.invariant}\n{moves}\n\n"
                f"{self.violation.case}"
            )
        if not self.complete:
            raise AssertionError(
                f"{self.saga}: cut off after {self.states:,} states; nothing was found, "
                "but not everything was seen: raise max_states, or lower the budgets"
            )


def explore(
    saga: type[Any] | Definition,
    *,
    start: Event,
    duplicates: int = 1,
    timeouts: int = 1,
    rejections: int = 1,
    cancels: int = 1,
    losses: int = 0,
    call_crashes: int = 0,
    undo_rejections: int = 0,
    verbs: Iterable[str] = (),
    events: Iterable[Event] = (),
    examples: Iterable[TypedMessage] = (),
    invariants: Sequence[Invariant] = (),
    max_states: int = 300_000,
    fence: Fence | None = None,
) -> Report:
    """Go through every state that the saga and its participants can reach, breadth first.

    Bodies of local and call steps are not run: what counts is whether they took effect. What waits
    for an event gets it, in any order.

    Args:
        saga: the class.
        start: the event that starts it.
        duplicates: how many messages may be delivered twice, past the inbox.
        timeouts: how many timers may fire before their answer comes, the deadline included.
        rejections: how many commands, calls and local steps may be refused.
        cancels: how many cancelling events may arrive, at any moment; of a process, how many
            events besides the start.
        losses: how many messages may be lost for ever.
        call_crashes: how many calls may be taken over from a worker that died.
        undo_rejections: how many undos may be refused at first; the saga is stuck until it retries.
        verbs: what an operator may do once, at any moment.
        events: what may arrive besides; of waits an example is made.
        examples: replies and events to use where the types of fields are not enough.
        invariants: what must hold besides what sagas promise.
        max_states: where to give up; the report says so.
        fence: another participant than that of the contract.

    Returns:
        what was seen, and the shortest way to the first thing that does not hold.
    """
    budgets = Budgets(
        *(duplicates, timeouts, rejections, cancels, losses, call_crashes),
        verbs=frozenset(verbs),
        undo_rejections=undo_rejections,
    )
    search = _Search(saga, start, budgets, [*events], [*examples], invariants, fence)
    return search.run(max_states)


def replay(
    saga: type[Any] | Definition,
    *,
    start: Event,
    moves: Iterable[str],
    verbs: Iterable[str] = (),
    events: Iterable[Event] = (),
    examples: Iterable[TypedMessage] = (),
    invariants: Sequence[Invariant] = (),
    fence: Fence | None = None,
) -> World:
    """Go one way through the states of a saga; what may go wrong is not counted.

    Args:
        saga: the class.
        start: the event that starts it.
        moves: as a report of `explore` names them.
        verbs: as of `explore`.
        events: as of `explore`.
        examples: as of `explore`.
        invariants: as of `explore`.
        fence: as of `explore`.

    Returns:
        the world after the last move.

    Raises:
        AssertionError: a move cannot be made, or something does not hold on the way.
    """
    plenty = Budgets(99, 99, 99, 99, 99, 99, frozenset(verbs), 99)
    search = _Search(saga, start, plenty, [*events], [*examples], invariants, fence)
    return search.follow([*moves])


class _Search:
    """One definition in its world."""

    def __init__(
        self,
        saga: type[Any] | Definition,
        start: Event,
        budgets: Budgets,
        events: list[Event],
        examples: list[TypedMessage],
        invariants: Sequence[Invariant],
        fence: Fence | None,
    ) -> None:
        self.definition = saga if isinstance(saga, Definition) else definition_of(saga)
        self.start = start
        self._budgets = budgets
        self._invariants = [*BUILT_IN, *invariants]
        self._machine = Machine(self.definition)
        made = Examples([*examples, start, *events])
        awaited = [s.event for s in self.definition.steps if s.event is not None]
        given = {type(each) for each in events}
        others = [*events, *(made.of(cls) for cls in awaited if cls not in given)]
        cancelling = self.definition.cancels or self._of_a_process(given)
        cancels = [made.of(cls) for cls in sorted(cancelling, key=_name)]
        self._others = range(1, 1 + len(others))
        self._moves = Moves(
            definition=self.definition,
            machine=self._machine,
            examples=made,
            events=[start, *others, *cancels],
            cancels=range(1 + len(others), 1 + len(others) + len(cancels)),
            fence=fence or Fence(),
        )
        self._facts: dict[int, Facts] = {}
        self._came: dict[Place, tuple[Place | None, str]] = {}

    def _of_a_process(self, given: set[type[Event]]) -> set[type[Event]]:
        """What a process takes besides: it may come at any moment, as a cancel may."""
        if self.definition.steps:
            return set()
        taken = {route.event for route in self.definition.routes}
        return taken - self.definition.starts - given

    def run(self, max_states: int) -> Report:
        """Breadth first: the first violation is a shortest one."""
        began = perf_counter()
        self._transitions = 0
        wrong = self._searched(max_states)
        violation = None if wrong is None else self._violation(*wrong)
        return Report(
            saga=self.definition.saga,
            states=len(self._came),
            transitions=self._transitions,
            decided=self._machine.decided,
            seconds=perf_counter() - began,
            complete=len(self._came) < max_states,
            statuses=frozenset(facts.status for facts in self._facts.values()),
            violation=violation,
        )

    def _searched(self, max_states: int) -> tuple[str, Place] | None:
        todo: deque[Place] = deque()
        first = self._moves.begin(self._budgets, self._others)
        for label, place, broken in first:
            if (wrong := self._entered(place, None, label, broken, todo)) is not None:
                return wrong, place
        while todo and len(self._came) < max_states:
            here = todo.popleft()
            for label, place, broken in self._moves(here):
                self._transitions += 1
                if (wrong := self._entered(place, here, label, broken, todo)) is not None:
                    return wrong, place
        return None

    def _entered(
        self, place: Place, came: Place | None, label: str, broken: str | None, todo: deque[Place]
    ) -> str | None:
        """What does not hold there; a place that was seen is not looked at again."""
        if place not in self._came:
            self._came[place] = (came, label)
            todo.append(place)
            return broken or self._wrong(place)
        return broken

    def _wrong(self, place: Place) -> str | None:
        world = self.world(place)
        for each in self._invariants:
            if (each.when == "always" or world.quiet) and not each(world):
                return each.name
        return None

    def world(self, place: Place) -> World:
        """What invariants see of a place."""
        facts = self._facts.get(place.at)
        if facts is None:
            facts = Facts(self.definition, self._machine.snapshots[place.at])
            self._facts[place.at] = facts
        return World(facts, place, self.definition)

    def _violation(self, says: str, place: Place) -> Violation:
        moves: list[str] = []
        at: Place | None = place
        while at is not None:
            at, label = self._came[at]
            moves.insert(0, label)
        return Violation(invariant=says, moves=tuple(moves), case=self._case(says, moves))

    def _case(self, says: str, moves: list[str]) -> str:
        name = self.definition.source.__name__
        words = "".join(c if c.isalnum() else "_" for c in f"{self.definition.saga} {says}")
        lines = "".join(f"            {each!r},\n" for each in moves)
        verbs = sorted(self._budgets.verbs)
        return (
            f"def test_{words.lower()}() -> None:\n"
            f"    replay(\n        {name},\n        start={self.start!r},\n"
            + (f"        verbs={verbs!r},\n" if verbs else "")
            + f"        moves=[\n{lines}        ],\n    )\n"
        )

    def follow(self, moves: list[str]) -> World:
        """The places along the way; of moves with one name the first is taken."""
        place: Place | None = None
        for label in moves:
            possible: Iterator[Move] = (
                self._moves.begin(self._budgets, self._others)
                if place is None
                else self._moves(place)
            )
            found: dict[str, tuple[Place, str | None]] = {}
            for name, after, broken in possible:
                found.setdefault(name, (after, broken))
            if label not in found:
                raise AssertionError(f"there is no move {label!r}, but: {', '.join(found)}")
            place, broken = found[label]
            wrong = broken or self._wrong(place)
            if wrong is not None:
                raise AssertionError(f"after {label!r} it does not hold that {wrong}")
        if place is None:
            raise AssertionError("there are no moves")
        return self.world(place)


def _name(cls: type[Any]) -> str:
    return cls.__name__


__all__ = ["Fence", "Invariant", "Report", "Violation", "World", "explore", "invariant", "replay"]
