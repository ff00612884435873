"""What operators do: pure, allowed or refused, and journalled with who and why."""

import orjson
from pydantic import ValidationError

from eventbus.codec import plan_of
from eventbus.event import Reply
from eventbus.saga import compensation
from eventbus.saga.draft import FINAL, Draft, phase_timer
from eventbus.saga.input import Verb
from eventbus.saga.sending import ask, forward, passed_pivot, undo, wait
from eventbus.saga.step_log import changed, note_of, noted
from eventbus.storage.sagas import StepRow, StepStatus


def intervene(draft: Draft, verb: Verb) -> None:
    """Do what the verb says, or ignore it as `refused: …`."""
    match verb.name:
        case "pause":
            _pause(draft)
        case "resume":
            _resume(draft)
        case "cancel":
            _cancel(draft, verb)
        case "compensate":
            _compensate(draft)
        case "retry":
            _retry(draft)
        case "skip":
            _skip(draft, verb)
        case "resolve":
            _resolve(draft, verb)
        case _:
            _refuse(draft, f"there is no verb {verb.name!r}")


def _refuse(draft: Draft, why: str) -> None:
    draft.ignore(f"refused: {why}")


def _pause(draft: Draft) -> None:
    if draft.paused or draft.status in FINAL:
        _refuse(draft, "it is paused" if draft.paused else f"it is {draft.status}")
    else:
        draft.paused = True


def _resume(draft: Draft) -> None:
    if draft.paused:
        draft.paused, draft.drain = False, True
    else:
        _refuse(draft, "it is not paused")


def _cancel(draft: Draft, verb: Verb) -> None:
    if draft.status not in {"running", "resolving"}:
        _refuse(draft, f"it is {draft.status}")
    elif passed_pivot(draft):
        _refuse(draft, "the pivot has passed")
    elif draft.intent is not None:
        _refuse(draft, f"it turns back already: {draft.intent}")
    else:
        draft.intent = verb.reason or "cancelled by an operator"


def _compensate(draft: Draft) -> None:
    why = no_way_back(draft)
    if why is None:
        compensation.begin(draft)
    else:
        _refuse(draft, why)


def no_way_back(draft: Draft) -> str | None:
    """Why the saga cannot be compensated now; None: it can."""
    if draft.status == "compensated" or draft.plan is not None:
        return "it is compensated or on its way to be"
    if compensation.pivot_in_flight(draft) is not None:
        return "the pivot is in flight"
    if passed_pivot(draft):
        return "the pivot has passed"
    return None


def _retry(draft: Draft) -> None:
    """The same effect ids, attempts from 0."""
    if draft.error is None:
        rows = [row for row in draft.log.rows if row.status == "dispatched" and row.attempt > 1]
        for each in rows:
            _again(draft, each)
        if not rows:
            _refuse(draft, f"it is {draft.status}, and nothing waits to be sent again")
        return
    row = _stuck_row(draft)
    contradicts = draft.error.reason == "contradiction"
    draft.unstick()
    if row is not None and not contradicts:
        _again(draft, row)
    draft.drain = True


def _again(draft: Draft, row: StepRow) -> None:
    if row.kind == "wait":
        wait(draft, row)
    elif row.phase == "undo":
        undo(draft, changed(row, status="dispatched", attempt=0))
    elif note_of(row).asked:
        ask(draft, noted(row, asked=0))
    else:
        draft.disarm(phase_timer("forward", row.seq))
        forward(draft, changed(row, status="dispatched", attempt=0))


def _stuck_row(draft: Draft) -> StepRow | None:
    error = draft.error
    if error is None or error.seq is None:
        return None
    return draft.log.get(error.seq, error.phase)


def _skip(draft: Draft, verb: Verb) -> None:
    """The step or undo counts as done, whatever became of it."""
    row = _stuck_row(draft)
    if draft.error is None or row is None:
        _refuse(draft, "it is not stuck on a step")
    elif not verb.reason:
        _refuse(draft, "skip needs a reason")
    else:
        _settle(draft, row, "skipped", verb)


def _resolve(draft: Draft, verb: Verb) -> None:
    """The operator says what became of a step."""
    step = str(verb.args.get("step", ""))
    begun = dict.fromkeys(row.name for row in draft.log.rows)
    row = _in_doubt(draft, step)
    done = verb.args.get("as")
    if step not in begun:
        _refuse(draft, f"it began no step {step!r}, but {', '.join(begun) or 'none'}")
    elif row is None:
        _refuse(draft, "that step is neither unknown nor a failed undo")
    elif done not in {"done", "undone"}:
        _refuse(draft, "say as=done or as=undone")
    elif row.phase == "forward":
        _settle(draft, row, "succeeded" if done == "done" else "cancelled", verb)
    elif done == "undone":
        _settle(draft, row, "succeeded", verb)
    else:
        _undo_after_all(draft, row, verb)


def _in_doubt(draft: Draft, step: str) -> StepRow | None:
    rows = [row for row in draft.log.rows if row.name == step]
    for row in reversed(rows):
        if row.phase == "undo" and row.status == "failed":
            return row
        if row.phase == "forward" and row.status in {"unknown", "failed"} and draft.plan is None:
            return row
    return None


def _settle(draft: Draft, row: StepRow, status: StepStatus, verb: Verb) -> None:
    """Write what the operator says; an answer that does not fit is refused before."""
    try:
        reply = _reply(draft, row, verb)
    except (ValidationError, TypeError, ValueError) as error:
        _refuse(draft, f"the reply does not fit: {error}")
        return
    answers = row.phase == "forward" and status in {"succeeded", "skipped"}
    if answers and reply is None and draft.definition.flow.needs_reply:
        _refuse(draft, "a process goes on by the reply: give it")
        return
    for phase in ("resolve", row.phase):
        draft.disarm(phase_timer(phase, row.seq))
    row = noted(changed(row, status=status), why=verb.reason or None)
    if reply is not None:
        plan = plan_of(type(reply))
        row = changed(row, reply_type=plan.wire.type, reply=plan.write(reply))
    row = draft.log.put(row)
    if draft.error is not None and (row.seq, row.phase) == (draft.error.seq, draft.error.phase):
        draft.unstick()
    if reply is not None and row.phase == "forward":
        draft.definition.flow.answered(draft, row, reply)


def _reply(draft: Draft, row: StepRow, verb: Verb) -> Reply | None:
    said = verb.args.get("reply")
    if said is None or row.phase == "undo":  # a process does not remember how its undos were done
        return None
    cls = draft.definition.flow.spec(row).replies
    if cls is None:
        return None
    body = said if isinstance(said, str) else orjson.dumps(said)
    return cls.model_validate_json(body)


def _undo_after_all(draft: Draft, row: StepRow, verb: Verb) -> None:
    """The effect stands: its undo is sent again, with the reply if that is known now."""
    if draft.error is not None and (row.seq, row.phase) == (draft.error.seq, draft.error.phase):
        draft.unstick()
    undo(draft, noted(changed(row, status="dispatched", attempt=0), why=verb.reason or None))
