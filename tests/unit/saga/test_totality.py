"""`advance` answers every input in every status, and equal arguments equally."""

from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventbus.saga.advance import advance
from eventbus.saga.decision import Decision
from eventbus.saga.draft import FINAL
from eventbus.saga.input import (
    CallDone,
    GaveUp,
    Input,
    LocalDone,
    Received,
    Replied,
    Started,
    TimerFired,
    Verb,
)
from eventbus.saga.instance import Plan, Stuck
from eventbus.saga.journal import recorded
from tests.unit.saga.play import ANSWERS, NOW, REFUSALS, Play
from tests.unit.saga.shop import (
    Independent,
    Mixed,
    OrderCancelled,
    OrderPlaced,
    OrderProcess,
    Parallel,
    PaymentSeen,
    PlaceOrder,
)

SAGAS = [PlaceOrder, Parallel, Mixed, Independent, OrderProcess]
KINDS = {"reply": 8, "local": 3, "call": 3, "timer": 4, "verb": 3, "event": 2, "gave up": 1}
OUTCOMES = ["succeeded", "succeeded", "succeeded", "rejected", "cancelled", "undone", "unknown"]
VERBS = ["retry", "skip", "resolve", "cancel", "compensate", "pause", "resume", "explode"]
EVENTS = [
    OrderPlaced(order_id="A-1"),
    OrderCancelled(order_id="A-1"),
    PaymentSeen(payment_id="P-A-1"),
]
TIMERS = [
    "deadline",
    "timer:mine",
    "what",
    *(f"{k}:{n}" for k in ("step", "resolve", "undo") for n in range(4)),
]


def effects(play: Play) -> list[UUID]:
    questions = [play.resolve_id(row.name) for row in play.steps]
    return [*(row.effect_id for row in play.steps), *questions, UUID(int=0)]


def drawn(dice: Random, play: Play) -> Input:
    """Likely inputs more often than others: or no saga would come far."""
    (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
    if kind == "timer":
        return TimerFired(dice.choice([*play.timers, *TIMERS]))
    if kind == "verb":
        step = dice.choice([*ANSWERS, "nothing"])
        args: dict[str, Any] = {"step": step, "as": dice.choice(["done", "undone"])}
        if dice.random() < 0.5:
            reply = ANSWERS.get(step)
            args["reply"] = {} if reply is None else reply.model_dump()
        return Verb(dice.choice(VERBS), args, "ops", dice.choice(["", "why", "\x00\ud7ff"]))
    if kind == "event":
        routed = {route.event for route in play.definition.routes}
        event = dice.choice([each for each in EVENTS if type(each) in routed])
        return Started(event) if isinstance(event, OrderPlaced) else Received(event)
    if kind == "gave up":
        return GaveUp("m", "why")
    in_flight = [row.effect_id for row in play.steps if row.status == "dispatched"]
    effect = dice.choice(in_flight if in_flight and dice.random() < 0.7 else effects(play))
    outcome: Any = dice.choice(OUTCOMES)
    name = next((row.name for row in play.steps if row.effect_id == effect), "reserve")
    reply = {"succeeded": ANSWERS, "rejected": REFUSALS}.get(outcome, {}).get(name)
    if kind == "local":
        state = play.saga.data if outcome == "succeeded" else None
        return LocalDone(effect, outcome, state)
    if kind == "call":
        return CallDone(effect, 1, outcome, reply if name == "fetch" else None, "why")
    return Replied(effect, outcome, reply, "m")


# A seed draws the inputs: Hypothesis looks for the shortest row of them, and spends no more on
# drawing than the core on deciding.
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), saga=st.sampled_from(SAGAS), length=st.integers(1, 25))
@example(seed=911, saga=OrderProcess, length=8)  # a failed undo resolved, with a reply
def test_every_input_in_every_status_is_decided(seed: int, saga: type[Any], length: int) -> None:
    play, dice = Play(saga), Random(seed)
    for _ in range(length):
        before, steps = play.saga, play.steps
        what = drawn(dice, play)
        decision = play.feed(what)
        assert decision == advance(play.definition, before, steps, what, NOW)
        assert play.saga.version == before.version + 1
        if decision.ignored is not None:
            assert play.saga == replace(before, version=before.version + 1)
            assert play.steps == steps
            assert [*decision.commands, *decision.calls, *decision.local_runs] == []
        for send in decision.commands:
            rows = {row.effect_id for row in decision.steps}
            assert (send.target if send.phase == "resolve" else send.effect_id) in rows
        assert (play.saga.status == "stuck") == (play.saga.error is not None)
        what_is_written_is_read_again(play, what, decision)
        assert before.plan in {None, play.saga.plan}, "a plan never changes"
        if before.status in FINAL and not isinstance(what, Verb):
            contradicted = play.saga.error is not None and play.saga.error.reason == "contradiction"
            assert contradicted or play.saga.status == before.status


def what_is_written_is_read_again(play: Play, what: Input, decision: Decision) -> None:
    if play.saga.plan is not None:
        assert Plan.decoded(play.saga.plan.encoded()) == play.saga.plan
    if play.saga.error is not None:
        assert Stuck.decoded(play.saga.error.encoded()) == play.saga.error
    reply = getattr(what, "reply", None)
    past = recorded(decision.journal, play.definition.by_type, lambda _: reply)
    assert past.input == what
