"""Named breaks of the protocol, each of which the explorer must find."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch
from uuid import uuid5

from eventbus.saga import absorption, compensation, firing, journal, sending
from eventbus.saga import advance as rules
from eventbus.saga.decision import Decision
from eventbus.saga.draft import Draft
from eventbus.saga.input import Outcome
from eventbus.saga.instance import Plan
from eventbus.storage.sagas import StepRow
from eventbus.testing.explorer import Fence
from eventbus.testing.saga_world import Effect


class NoTombstone(Fence):
    def undo(self, effect: Effect) -> tuple[Effect, Outcome]:
        return (effect, "undone") if effect.state == "none" else super().undo(effect)


class NoBarrier(Fence):
    def resolve(self, effect: Effect) -> tuple[Effect, Outcome]:
        return (effect, "cancelled") if effect.state == "none" else super().resolve(effect)


class NoDedupe(Fence):
    def forward(self, effect: Effect) -> tuple[Effect, Outcome]:
        if effect.state == "done":
            return effect._replace(applied=effect.applied + 1), "succeeded"
        return super().forward(effect)


class UndoesTwice(Fence):
    def undo(self, effect: Effect) -> tuple[Effect, Outcome]:
        if effect.state == "undone":
            return effect._replace(undone=effect.undone + 1), "undone"
        return super().undo(effect)


class ForgetsRejections(Fence):
    def forward(self, effect: Effect) -> tuple[Effect, Outcome]:
        known = effect._replace(state="none") if effect.state == "rejected" else effect
        return super().forward(known)


plan_of_undos = compensation.plan_of_undos
advance = rules.advance
forward = sending.forward
said: Callable[[Any], tuple[str, str | None, dict[str, Any]]] = journal._said


def plan_without_unknown(draft: Draft) -> Plan:
    known = [
        line
        for line in plan_of_undos(draft).undos
        if draft.log.forward(line.seq).status == "succeeded"
    ]
    return Plan(tuple(known))


def plan_forwards(draft: Draft) -> Plan:
    return Plan(plan_of_undos(draft).undos[::-1])


def no_pivot_in_flight(draft: Draft) -> None:
    return None


def state_without_its_commands(*arguments: Any) -> Decision:
    decision = advance(*arguments)
    return replace(decision, commands=(), arm=())


def another_effect_on_resend(draft: Draft, row: StepRow) -> None:
    if row.attempt:
        row = replace(row, effect_id=uuid5(row.effect_id, str(row.attempt)))
    forward(draft, row)


def entry_without_outcome(input: Any) -> tuple[str, str | None, dict[str, Any]]:
    kind, input_id, detail = said(input)
    return kind, input_id, {**detail, **({"outcome": "succeeded"} if "outcome" in detail else {})}


@dataclass(frozen=True)
class Mutant:
    """What is broken, what does not hold then, and the shape and budgets that show it."""

    name: str
    breaks: str
    fence: Fence | None = None
    patches: tuple[tuple[Any, str, Any], ...] = ()
    saga: str = "PlaceOrder"
    deadline: bool = True
    most_moves: int = 12
    budgets: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def applied(self) -> Iterator[None]:
        started = [patch.object(place, name, value) for place, name, value in self.patches]
        for each in started:
            each.start()
        try:
            yield
        finally:
            for each in started:
                each.stop()


LEAK = "of a compensated saga no effect stands"
ONCE = "each effect is applied and undone at most once"
PIVOT = "nothing is undone once the pivot took effect"
NONE = {"duplicates": 0, "timeouts": 0, "rejections": 0, "cancels": 0}

MUTANTS = [
    Mutant(
        "a plan without unknown steps",
        LEAK,
        patches=((compensation, "plan_of_undos", plan_without_unknown),),
        budgets={**NONE, "cancels": 1},
        most_moves=3,
    ),
    Mutant("no tombstone", LEAK, fence=NoTombstone(), budgets={**NONE, "cancels": 1}, most_moves=5),
    Mutant(
        "a cancel that ignores a pivot in flight",
        PIVOT,
        patches=((compensation, "pivot_in_flight", no_pivot_in_flight),),
        budgets={**NONE, "cancels": 1},
        most_moves=8,
    ),
    Mutant(
        "a question without a barrier",
        "no participant contradicts itself|nothing is undone once the pivot took effect|" + LEAK,
        fence=NoBarrier(),
        budgets={**NONE, "cancels": 1},
    ),
    Mutant("no effect dedupe", ONCE, fence=NoDedupe(), budgets={**NONE, "duplicates": 1}),
    Mutant(
        "an undo that runs again",
        ONCE,
        fence=UndoesTwice(),
        budgets={**NONE, "duplicates": 1, "cancels": 1},
    ),
    Mutant(
        "a rejection that is forgotten",
        "no participant contradicts itself|" + LEAK,
        fence=ForgetsRejections(),
        budgets={**NONE, "duplicates": 1, "rejections": 1},
    ),
    Mutant(
        "commands that are not in the transaction of the state",
        "an open saga has a move, or a person is told",
        patches=((rules, "advance", state_without_its_commands),),
        deadline=False,
        budgets=NONE,
        most_moves=1,
    ),
    Mutant(
        "another effect id on resend",
        ONCE + "|" + LEAK + "|of a completed saga all effects stand",
        patches=(
            (sending, "forward", another_effect_on_resend),
            (firing, "forward", another_effect_on_resend),
        ),
        budgets={**NONE, "timeouts": 1, "cancels": 1},
    ),
    Mutant(
        "undo in the order of starting",
        "undos run in the reverse order of starting",
        patches=((compensation, "plan_of_undos", plan_forwards),),
        budgets={**NONE, "cancels": 1},
    ),
    Mutant(
        "a duplicate that counts",
        "a duplicate changes nothing",
        patches=((absorption, "DEFINITE", frozenset[str]()),),
        budgets={**NONE},
    ),
    Mutant(
        "a journal without outcomes",
        "the journal run again gives the same saga",
        patches=((journal, "_said", entry_without_outcome),),
        budgets={**NONE, "rejections": 1},
    ),
]
