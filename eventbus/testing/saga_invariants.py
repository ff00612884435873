"""What must hold in every state of a saga's world, and what authors may add."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any, Literal, overload
from uuid import UUID

from eventbus.handler import UnitOfWork
from eventbus.saga.definition import Definition, StepSpec
from eventbus.storage.sagas import Status, StepRow
from eventbus.testing.saga_machine import FINAL, Snapshot
from eventbus.testing.saga_world import Effect, Place


class Facts:
    """What a snapshot says, worked out once for all places that share it."""

    def __init__(self, definition: Definition, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.status: Status = snapshot.saga.status
        forwards = [row for row in snapshot.steps if row.phase == "forward"]
        self.specs: dict[UUID, StepSpec] = {
            row.effect_id: definition.flow.spec(row) for row in forwards
        }
        self.rows: dict[UUID, StepRow] = {row.effect_id: row for row in forwards}
        self.standing: frozenset[UUID] = frozenset(
            row.effect_id for row in forwards if row.status == "succeeded" and row.kind != "wait"
        )
        self.pivots: frozenset[UUID] = frozenset(
            effect for effect, spec in self.specs.items() if spec.pivot
        )
        self.kept: frozenset[UUID] = frozenset(
            effect for effect, spec in self.specs.items() if spec.undo is None and spec.no_undo
        )
        error = snapshot.saga.error
        self.contradicts: bool = error is not None and error.reason == "contradiction"
        self.in_order: bool = self._in_order(forwards)

    def _in_order(self, forwards: list[StepRow]) -> bool:
        """Whether every undo was begun after those of all that was started later."""
        begun = {row.seq for row in self.snapshot.steps if row.phase == "undo"}
        owed = {
            row.seq
            for row in forwards
            if row.status in {"succeeded", "unknown"} and self.specs[row.effect_id].undo is not None
        }
        return all(later in begun for seq in begun for later in owed if later > seq)


@dataclass(frozen=True)
class World:
    """One state: the saga, what its participants did, what is in flight."""

    facts: Facts
    place: Place
    definition: Definition

    @property
    def status(self) -> Status:
        """Of the saga."""
        return self.facts.status

    @property
    def intent(self) -> str | None:
        """Why it shall turn back."""
        return self.facts.snapshot.saga.intent

    @cached_property
    def state(self) -> Any:
        """The author's state, decoded."""
        return self.definition.state.model_validate_json(self.facts.snapshot.saga.data)

    @property
    def steps(self) -> tuple[StepRow, ...]:
        """The step log."""
        return self.facts.snapshot.steps

    @property
    def timers(self) -> frozenset[str]:
        """What is armed."""
        return self.facts.snapshot.timers

    @property
    def quiet(self) -> bool:
        """Nothing is in flight, and no worker has a call."""
        return not self.place.flying and not self.place.calls

    def applied(self, step: str) -> int:
        """How often the effect of the step was applied, all occurrences together."""
        return sum(each.applied for each in self._of(step))

    def undone(self, step: str) -> int:
        """How often it was undone."""
        return sum(each.undone for each in self._of(step))

    def _of(self, step: str) -> list[Effect]:
        rows = self.facts.rows
        return [
            each for each in self.place.effects if each.id in rows and rows[each.id].name == step
        ]


Check = Callable[[World], bool]


@dataclass(frozen=True, slots=True)
class Invariant:
    """A function over the world that must hold in every state, or in every quiet one."""

    check: Check
    when: Literal["always", "quiet"] = "always"
    says: str = ""

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return self.says or getattr(self.check, "__name__", repr(self.check)).replace("_", " ")

    def __call__(self, world: World) -> bool:
        """Whether it holds."""
        return self.check(world)


@dataclass(frozen=True, slots=True)
class TableInvariant:
    """A function that reads tables, and raises if something is wrong with them."""

    check: Callable[[UnitOfWork], Awaitable[None]]

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return getattr(self.check, "__name__", repr(self.check))

    def __call__(self, tx: UnitOfWork) -> Awaitable[None]:
        """Await it."""
        return self.check(tx)


@overload
def invariant(check: Callable[[UnitOfWork], Awaitable[None]], /) -> TableInvariant: ...
@overload
def invariant(check: Check, /) -> Invariant: ...
@overload
def invariant(*, when: Literal["always", "quiet"] = "always") -> Callable[[Check], Invariant]: ...
def invariant(check: Any = None, /, *, when: Literal["always", "quiet"] = "always") -> Any:
    """Make an invariant of a function of the world; or of a unit of work, for `eventbus crashtest`.

    Args:
        check: the function, where no option is given; a coroutine function asserts what must hold
            of the tables whenever everything came to rest.
        when: "quiet": only where nothing is in flight and no worker has a call.
    """
    if check is not None:
        return TableInvariant(check) if iscoroutinefunction(check) else Invariant(check)
    return lambda function: Invariant(function, when)


def _at_most_once(world: World) -> bool:
    return all(each.applied <= 1 and each.undone <= each.applied for each in world.place.effects)


def _completed_stands(world: World) -> bool:
    if world.status != "completed":
        return True
    standing = {each.id for each in world.place.effects if each.applied - each.undone == 1}
    return world.facts.standing <= standing


def _compensated_leaves_nothing(world: World) -> bool:
    return world.status != "compensated" or all(
        each.applied == each.undone or each.id in world.facts.kept for each in world.place.effects
    )


def _no_undo_after_the_pivot(world: World) -> bool:
    effects, pivots = world.place.effects, world.facts.pivots
    passed = any(each.applied for each in effects if each.id in pivots)
    return not (passed and any(each.undone for each in effects))


def _no_contradiction(world: World) -> bool:
    return not world.facts.contradicts


def _somebody_moves(world: World) -> bool:
    if world.status in FINAL or world.status == "stuck" or world.facts.snapshot.saga.paused:
        return True
    return not world.quiet or bool(world.timers)


def _in_reverse(world: World) -> bool:
    return world.facts.in_order


BUILT_IN: tuple[Invariant, ...] = (
    Invariant(_at_most_once, says="each effect is applied and undone at most once"),
    Invariant(_completed_stands, says="of a completed saga all effects stand"),
    Invariant(_compensated_leaves_nothing, says="of a compensated saga no effect stands"),
    Invariant(_no_undo_after_the_pivot, says="nothing is undone once the pivot took effect"),
    Invariant(_no_contradiction, says="no participant contradicts itself"),
    Invariant(_somebody_moves, says="an open saga has a move, or a person is told"),
    Invariant(_in_reverse, says="undos run in the reverse order of starting"),
)
