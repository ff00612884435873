"""`advance` answers every input in every status, and equal arguments equally."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus.saga.advance import advance
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
OUTCOMES = ["succeeded", "rejected", "cancelled", "undone", "unknown"]
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


def drawn(data: st.DataObject, play: Play) -> Input:
    kind = data.draw(st.sampled_from(["reply", "local", "call", "timer", "verb", "event", "rest"]))
    if kind == "timer":
        return TimerFired(data.draw(st.sampled_from([*play.timers, *TIMERS])))
    if kind == "verb":
        step = data.draw(st.sampled_from([*ANSWERS, "nothing"]))
        args: dict[str, Any] = {"step": step, "as": data.draw(st.sampled_from(["done", "undone"]))}
        if data.draw(st.booleans()):
            reply = ANSWERS.get(step)
            args["reply"] = {} if reply is None else reply.model_dump()
        return Verb(data.draw(st.sampled_from(VERBS)), args, "ops", data.draw(st.text(max_size=2)))
    if kind == "event":
        routed = {route.event for route in play.definition.routes}
        event = data.draw(st.sampled_from([each for each in EVENTS if type(each) in routed]))
        return Started(event) if isinstance(event, OrderPlaced) else Received(event)
    if kind == "rest":
        return GaveUp("m", "why")
    effect = data.draw(st.sampled_from(effects(play)))
    outcome: Any = data.draw(st.sampled_from(OUTCOMES))
    name = next((row.name for row in play.steps if row.effect_id == effect), "reserve")
    reply = {"succeeded": ANSWERS, "rejected": REFUSALS}.get(outcome, {}).get(name)
    if kind == "local":
        state = play.saga.data if outcome == "succeeded" else None
        return LocalDone(effect, outcome, state)
    if kind == "call":
        return CallDone(effect, 1, outcome, reply if name == "fetch" else None, "why")
    return Replied(effect, outcome, reply, "m")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), saga=st.sampled_from(SAGAS), length=st.integers(1, 25))
def test_every_input_in_every_status_is_decided(
    data: st.DataObject, saga: type[Any], length: int
) -> None:
    play = Play(saga)
    for _ in range(length):
        before, steps = play.saga, play.steps
        what = drawn(data, play)
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
        if play.saga.plan is not None:
            assert Plan.decoded(play.saga.plan.encoded()) == play.saga.plan
        if play.saga.error is not None:
            assert Stuck.decoded(play.saga.error.encoded()) == play.saga.error
        assert (play.saga.status == "stuck") == (play.saga.error is not None)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), saga=st.sampled_from(SAGAS), length=st.integers(1, 15))
def test_a_plan_never_changes_and_the_journal_can_be_read(
    data: st.DataObject, saga: type[Any], length: int
) -> None:
    play = Play(saga)
    for _ in range(length):
        plan = play.saga.plan
        what = drawn(data, play)
        decision = play.feed(what)
        assert plan is None or play.saga.plan == plan
        reply = getattr(what, "reply", None)
        past = recorded(decision.journal, play.definition.by_type, lambda _, known=reply: known)  # type: ignore[misc]
        assert past.input == what
