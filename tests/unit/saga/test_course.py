"""Several inputs in one transaction, bodies of local and call steps, the journal run again."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from eventbus import Reject, UnitOfWork
from eventbus.codec import plan_of
from eventbus.errors import SagaMethodError
from eventbus.event import Reply
from eventbus.saga import CallContext, Saga, call_step, starts_on
from eventbus.saga.course import Course
from eventbus.saga.definition import definition_of
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
from eventbus.saga.instance import Stuck
from eventbus.saga.journal import recorded
from eventbus.saga.work import run_call, run_local
from eventbus.storage.sagas import Call, Correlation, JournalEntry, SagaRecord, StepRow
from tests.unit.saga.play import NOW, SAGA_ID, Play
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    Mixed,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    PlaceOrder,
    StockReserved,
)


def record(play: Play) -> SagaRecord:
    saga = play.saga
    return SagaRecord(
        saga_id=saga.saga_id,
        saga=play.definition.saga,
        key=saga.key,
        definition=play.definition.version,
        digest=play.definition.digest,
        status=saga.status,
        paused=saga.paused,
        intent=saga.intent,
        state_name=saga.state_name,
        data=saga.data,
        data_version=saga.data_version,
        plan=None if saga.plan is None else saga.plan.encoded(),
        error=None if saga.error is None else saga.error.encoded(),
        version=saga.version,
        steps=play.steps,
        now=NOW,
    )


def test_a_batch_of_inputs_is_one_change() -> None:
    play = Play(PlaceOrder)
    course = Course(play.definition, record(play))
    assert not course.changed
    reserve = play.row("reserve").effect_id
    answer = Replied(reserve, "succeeded", StockReserved(reservation_id="R-1"))
    first, second = course.feed(answer), course.feed(answer)
    assert first is not None
    assert second is not None
    assert second.ignored == "duplicate"
    third = course.feed(Verb("compensate", actor="ops"))
    assert third is not None
    change = course.change(worker="w-1", correlations=(Correlation("place-order", "x", "y"),))
    assert course.changed
    assert (change.was, change.version, change.status) == (1, 4, "compensating")
    assert [entry.version for entry in change.journal] == [2, 3, 4]
    assert {entry.worker for entry in change.journal} == {"w-1"}
    assert [(row.name, row.phase, row.status) for row in change.steps] == [
        ("reserve", "forward", "succeeded"),
        ("charge", "forward", "unknown"),
        ("charge", "undo", "dispatched"),
    ]
    assert [arm.name for arm in change.arm] == ["undo:1"]
    assert set(change.disarm) >= {"step:0", "step:1", "deadline"}
    assert change.correlations == (Correlation("place-order", "x", "y"),)
    assert change.plan is not None
    assert (change.definition, change.digest) == (1, play.definition.digest)


def test_a_timer_that_a_decision_before_it_moved_is_not_fed() -> None:
    play = Play(PlaceOrder)
    course = Course(play.definition, record(play))
    assert course.feed(TimerFired("deadline")) is not None
    assert course.feed(TimerFired("step:0")) is None
    assert course.feed(TimerFired("undo:0")) is None
    assert len(course.change(worker="w").journal) == 1


def test_an_input_that_fails_changes_nothing_and_the_next_may_follow() -> None:
    play = Play(PlaceOrder)
    row = record(play)
    course = Course(play.definition, row)
    course.saga = play.saga
    good = course.saga.data
    object.__setattr__(course.saga, "data", b"{}")
    reserve = play.row("reserve").effect_id
    answer = Replied(reserve, "succeeded", StockReserved(reservation_id="R-1"))
    with pytest.raises(SagaMethodError):
        course.feed(answer)
    assert not course.changed
    object.__setattr__(course.saga, "data", good)
    assert course.feed(answer) is not None


def test_an_ignored_input_does_not_move_a_saga_to_another_version() -> None:
    play = Play(PlaceOrder)
    old = record(play)
    course = Course(play.definition, old)
    course.feed(Verb("explode"))
    object.__setattr__(course, "_pinned", (0, b"old"))
    assert course.change(worker="w").definition == 0


def test_a_saga_is_read_as_it_was_written() -> None:
    play = Play(PlaceOrder)
    play.verb("compensate")
    play.undo("reserve", "rejected")
    course = Course(play.definition, record(play))
    assert course.saga == play.saga
    assert Stuck.decoded(play.saga.error.encoded()) == play.saga.error  # type: ignore[union-attr]


def test_calls_of_a_batch_are_kept() -> None:
    play = Play(Mixed)
    course = Course(play.definition, record(play))
    course.feed(LocalDone(play.row("book").effect_id, "succeeded", play.saga.data))
    assert [call.step for call in course.change(worker="w").calls] == ["fetch"]


class Tx:
    """A unit of work that remembers statements."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    @property
    def sql(self) -> "Tx":
        return self

    async def execute(self, statement: str, *arguments: object) -> None:
        self.statements.append(statement)


async def test_a_local_step_runs_on_the_state_and_what_it_leaves_is_fed_back() -> None:
    play = Play(Mixed, begin=False)
    run = play.feed(Started(OrderPlaced(order_id="A-1"))).local_runs[0]
    tx = Tx()
    data = await run_local(play.definition, run, cast("UnitOfWork", tx))
    assert tx.statements == ["INSERT INTO orders VALUES ($1)"]
    play.feed(LocalDone(run.effect_id, "succeeded", data))
    assert play.state.seen == ["booked"]
    undo = play.call("fetch", "rejected").local_runs[0]
    undone = await run_local(play.definition, undo, cast("UnitOfWork", tx))
    decision = play.feed(LocalDone(undo.effect_id, "succeeded", undone))
    assert decision.status == "compensated"
    assert play.state.seen == ["booked", "unbooked"]


def claimed(request: Any) -> Call:
    return Call(
        effect_id=request.effect_id,
        saga_id=SAGA_ID,
        saga="mixed",
        definition=1,
        seq=request.seq,
        phase=request.phase,
        step=request.step,
        input=request.input,
        attempt=3,
        owner="w",
        fence=1,
    )


class Calling(Saga[OrderState], name="calling", step_timeout=MINUTE):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @call_step
    async def charge(self, s: OrderState, call: CallContext) -> CardCharged:
        if s.order_id == "wrong":
            return StockReserved(reservation_id="x")  # type: ignore[return-value]  # unchecked
        return CardCharged(charge_id=f"{s.order_id}/{call.attempt}")

    @charge.undo
    async def refund(self, s: OrderState, reply: CardCharged | None, call: CallContext) -> None:
        raise Reject(reply) if reply else LookupError(call.effect_id)  # type: ignore[arg-type]


async def test_a_call_step_runs_with_its_attempt_and_its_undo_with_the_reply() -> None:
    play = Play(Calling, begin=False)
    request = play.feed(Started(OrderPlaced(order_id="A-1"))).calls[0]
    reply = await run_call(play.definition, claimed(request))
    assert reply == CardCharged(charge_id="A-1/3")
    play.feed(CallDone(request.effect_id, 1, "succeeded", reply))
    undo = play.verb("compensate").calls[0]
    with pytest.raises(Reject) as caught:
        await run_call(play.definition, claimed(undo))
    assert caught.value.rejection == reply  # type: ignore[comparison-overlap]


async def test_an_undo_of_a_call_without_an_outcome_knows_no_reply() -> None:
    play = Play(Calling)
    play.verb("compensate")
    request = play.feed(CallDone(play.row("charge").effect_id, 1, "unknown")).calls[0]
    with pytest.raises(LookupError):
        await run_call(play.definition, claimed(request))


async def test_a_call_that_answers_something_else_is_refused() -> None:
    play = Play(Calling, begin=False)
    request = play.feed(Started(OrderPlaced(order_id="wrong"))).calls[0]
    with pytest.raises(SagaMethodError, match="EB7003"):
        await run_call(play.definition, claimed(request))


def replies(play: Play, steps: Sequence[StepRow]) -> Any:
    def reply_of(effect: UUID) -> Reply | None:
        row = next(row for row in steps if row.effect_id == effect)
        if row.reply_type is None or row.reply is None:
            return None
        cls = play.definition.by_type[row.reply_type]
        return cast("Reply", plan_of(cls).read(row.reply))

    return reply_of


def again(play: Play, cls: Any) -> Play:
    """The journal run again, from nothing."""
    second = Play(cls, begin=False)
    for entry in play.journal:
        past = recorded(entry, play.definition.by_type, replies(play, play.steps))
        decision = second.feed(past.input)
        assert past.now == NOW
        assert decision.ignored == past.ignored
        assert decision.journal == entry
    return second


def test_the_journal_run_again_gives_the_same_saga() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.fire("step:1")
    play.event(OrderCancelled(order_id="A-1"))
    play.undo("charge", "rejected")
    play.feed(GaveUp("m-3", "why"))
    play.verb("retry", reason="now")
    play.undo("charge")
    play.undo("reserve")
    second = again(play, PlaceOrder)
    assert (second.saga, second.steps) == (play.saga, play.steps)


def test_the_journal_of_local_steps_and_calls_is_enough() -> None:
    play = Play(Mixed)
    play.local("book")
    play.call("fetch")
    play.fire("step:2")
    play.call("fetch", "unknown", "undo")
    play.call("fetch", "succeeded", "undo")
    play.local("book", "rejected", phase="undo")
    second = again(play, Mixed)
    assert (second.saga, second.steps) == (play.saga, play.steps)


def test_every_kind_of_input_is_read_back() -> None:
    effect = uuid4()
    inputs: list[Input] = [
        Started(OrderPlaced(order_id="A-1"), "m"),
        Received(OrderCancelled(order_id="A-1")),
        Replied(effect, "cancelled", None, "m"),
        TimerFired("deadline", 7),
        LocalDone(effect, "rejected"),
        LocalDone(effect, "succeeded", b"{}"),
        CallDone(effect, 3, "unknown", None, "timeout"),
        Verb("skip", {"reply": {"a": 1}}, "ops", "because"),
        GaveUp("m", "why"),
    ]
    play = Play(PlaceOrder)
    for each in inputs:
        entry: JournalEntry = play.feed(each).journal
        assert recorded(entry, play.definition.by_type, lambda _: None).input == each


def test_the_definition_of_the_tests_is_the_one_of_its_class() -> None:
    assert definition_of(Calling).source is Calling
