"""What a saga does with an input: pure, and for every input in every status."""

from datetime import datetime

from eventbus.saga import absorption, compensation, firing, forward, intervention, resolution
from eventbus.saga.decision import Decision
from eventbus.saga.definition import Definition
from eventbus.saga.draft import DEADLINE, FINAL, Draft
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
from eventbus.saga.instance import Instance, Steps
from eventbus.saga.migration import as_it_stands, migrated
from eventbus.saga.step_log import DEFINITE


def advance(
    definition: Definition, saga: Instance, steps: Steps, input: Input, now: datetime
) -> Decision:
    """Record the fact in the step log, then derive from the log alone what is next.

    Equal arguments give an equal decision. Every input raises the version by one and has one entry
    in the journal, ignored ones too.

    Args:
        definition: of the version that the saga is pinned to, or one that it can be migrated to.
        saga: as it was locked, or as the decision before left it.
        steps: all rows of its step log.
        input: what happened.
        now: the database's time of the locking statement; it stamps headers, nothing is compared
            with it.

    Raises:
        SagaMethodError: EB7002 to EB7004, a method of the author failed; nothing happened.
        SagaError: EB7005, the saga is too large; EB7007, nothing leads from its version to this.
        IllegalTransitionError: EB7001, a bug.
    """
    # What is given up may be what a migration cannot read.
    read = as_it_stands if isinstance(input, GaveUp) else migrated
    draft = read(definition, saga, steps, now)
    _absorb(draft, input)
    if draft.ignored is None and not draft.paused:
        onward(draft)
    return draft.decision(input)


def _absorb(draft: Draft, input: Input) -> None:
    match input:
        case Started(event) if draft.before.version == 0:
            if draft.definition.deadline is not None:
                draft.arm(DEADLINE, draft.definition.deadline)
            draft.definition.flow.begin(draft, event)
        case Started(event) | Received(event):
            if draft.status in FINAL or draft.plan is not None:
                draft.ignore("late")
            else:
                draft.definition.flow.received(draft, event)
        case Replied() | LocalDone() | CallDone():
            absorption.answered(draft, input)
        case TimerFired(name):
            firing.fired(draft, name)
        case Verb():
            intervention.intervene(draft, input)
        case _:
            _gave_up(draft, input)


def _gave_up(draft: Draft, input: GaveUp) -> None:
    if draft.status in FINAL:
        draft.ignore("late")
    else:
        draft.stick("input-failed", f"message {input.message_id}: {input.why}")


def onward(draft: Draft) -> None:
    """Derive from the log until nothing changes the status any more."""
    rules = {
        "running": forward.onward,
        "resolving": resolution.onward,
        "compensating": compensation.onward,
        "stuck": _freed,
    }
    while draft.status in rules and rules[draft.status](draft):
        pass


def _freed(draft: Draft) -> bool:
    """A definite answer for the step it is stuck on frees a saga."""
    error = draft.error
    if error is None or error.reason not in {"unknown", "undo-failed", "attempts"}:
        return False
    row = None if error.seq is None else draft.log.get(error.seq, error.phase)
    frees = DEFINITE if error.reason == "unknown" else {"succeeded", "skipped"}
    if row is None or row.status not in frees:
        return False
    draft.unstick()
    return True
