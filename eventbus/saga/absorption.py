"""Recording answers: the first definite outcome of an effect stands."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from eventbus.codec import plan_of
from eventbus.event import Rejection, Reply, Undone
from eventbus.saga.definition import PATIENT, StepSpec, effect_of
from eventbus.saga.draft import FINAL, Draft, phase_timer
from eventbus.saga.input import CallDone, LocalDone, Outcome, Replied
from eventbus.saga.sending import HOURLY, passed_pivot
from eventbus.saga.step_log import DEFINITE, REFUSED, changed, note_of, noted
from eventbus.storage.sagas import StepRow, StepStatus

_KINDS = {Replied: "command", LocalDone: "local", CallDone: "call"}
_STATUSES: dict[str, StepStatus] = {
    "succeeded": "succeeded",
    "rejected": "rejected",
    "cancelled": "cancelled",
}


def answered(draft: Draft, input: Replied | LocalDone | CallDone) -> None:
    """Record what became of an effect, or say why it does not count."""
    row = _row_of(draft, input.effect_id)
    if row is None:
        _question(draft, input)
    elif row.kind != _KINDS[type(input)]:
        draft.ignore("stray")
    elif row.phase == "undo":
        _undone(draft, row, input)
    else:
        _forward(draft, row, input)


def _row_of(draft: Draft, effect_id: UUID) -> StepRow | None:
    return next((row for row in draft.log.rows if row.effect_id == effect_id), None)


def _question(draft: Draft, input: Replied | LocalDone | CallDone) -> None:
    """A participant that forgot the effect refuses the question itself: nobody can tell."""
    for row in draft.log.forwards:
        asked = effect_of(draft.before.saga_id, row.name, row.occurrence, "resolve")
        if asked == input.effect_id and input.outcome == "rejected" and row.status == "unknown":
            if draft.status not in {"resolving", "stuck"}:
                break
            what = f"the participant forgot step {row.name!r}"
            if draft.error is not None and (draft.error.seq, draft.error.what) == (row.seq, what):
                draft.ignore("duplicate")
                return
            draft.arm(phase_timer("resolve", row.seq), HOURLY)
            draft.stick("unknown", what, row)
            return
    draft.ignore("stray")


def _forward(draft: Draft, row: StepRow, input: Replied | LocalDone | CallDone) -> None:
    spec = draft.definition.flow.spec(row)
    if not _fits(spec, input.outcome, input.reply):
        draft.ignore("stray")
    elif isinstance(input, CallDone) and note_of(row).working:
        _call_ended(draft, draft.log.put(noted(row, working=False)), input)
    elif draft.log.get(row.seq, "undo") is not None or (
        draft.status in FINAL and row.status not in DEFINITE
    ):
        draft.ignore("late")  # its undo has fenced it
    elif row.status not in DEFINITE:
        _record(draft, row, input)
    elif input.outcome == "unknown" or _agrees(row, input.outcome):
        draft.ignore("duplicate")
    else:
        _contradicts(draft, row, input.outcome)


def _contradicts(draft: Draft, row: StepRow, outcome: Outcome) -> None:
    error = draft.error
    if error is not None and (error.reason, error.seq) == ("contradiction", row.seq):
        draft.ignore("duplicate")
        return
    why = f"step {row.name!r} is recorded as {row.status}, now it is said to have {outcome}"
    draft.stick("contradiction", why, row)


def _fits(spec: StepSpec, outcome: Outcome, reply: Reply | None) -> bool:
    """Whether it is an answer that the step can have."""
    match outcome:
        case "succeeded":
            if spec.replies is None:
                return reply is None
            return isinstance(reply, spec.replies) and not isinstance(reply, Rejection)
        case "rejected":
            return spec.kind != "command" or reply is None or isinstance(reply, spec.rejects)
        case "cancelled" | "unknown":
            return True
        case _:
            return False


def _agrees(row: StepRow, outcome: Outcome) -> bool:
    return outcome in REFUSED if row.status in REFUSED else row.status == outcome


def _record(draft: Draft, row: StepRow, input: Replied | LocalDone | CallDone) -> None:
    if input.outcome == "unknown":
        _nobody_knows(draft, row)
        return
    draft.disarm(phase_timer("forward", row.seq))
    if note_of(row).asked:
        draft.disarm(phase_timer("resolve", row.seq))
    row = changed(row, status=_STATUSES[input.outcome], **_columns_of(input.reply))
    if isinstance(input, CallDone) and input.why:
        row = noted(row, why=input.why)
    if isinstance(input, LocalDone) and input.data is not None:
        draft.replace_data(input.data)
    row = draft.log.put(row)
    if input.reply is not None:
        draft.definition.flow.answered(draft, row, input.reply)


def _nobody_knows(draft: Draft, row: StepRow) -> None:
    """The participant gave up without an outcome; a question that is under way goes on."""
    if row.status == "dispatched":
        draft.disarm(phase_timer("forward", row.seq))
        draft.log.put(changed(row, status="unknown"))
    else:
        draft.ignore("duplicate")


def _call_ended(draft: Draft, row: StepRow, input: CallDone) -> None:
    """No worker has it any more: what waited for that goes on."""
    if row.status in DEFINITE:  # an operator was faster
        if input.outcome != "unknown" and not _agrees(row, input.outcome):
            _contradicts(draft, row, input.outcome)
    elif input.outcome != "unknown":
        _record(draft, row, input)
    elif draft.plan is not None or row.status == "dispatched":
        _call_gave_up(draft, row, input.why)
    elif row.status == "failed":
        draft.arm(phase_timer("forward", row.seq), HOURLY)
    else:
        draft.arm(phase_timer("resolve", row.seq), _wait(draft, note_of(row).asked))


def _call_gave_up(draft: Draft, row: StepRow, why: str) -> None:
    row = noted(row, why=why or None)
    if draft.plan is None and passed_pivot(draft) and row.attempt < PATIENT.attempts:
        draft.arm(phase_timer("forward", row.seq), PATIENT.wait(row.attempt))
        draft.log.put(row)
    else:
        draft.log.put(changed(row, status="unknown"))


def _wait(draft: Draft, tried: int) -> timedelta:
    return HOURLY if draft.status == "stuck" else PATIENT.wait(tried)


def _undone(draft: Draft, row: StepRow, input: Replied | LocalDone | CallDone) -> None:
    """The answer to an undo; one that was given up may still come."""
    done = row.status in {"succeeded", "skipped"}
    if done or draft.status in FINAL:
        draft.ignore("duplicate" if done else "late")
        return
    if isinstance(input, CallDone):
        row = noted(row, working=False)
    match input.outcome:
        case "succeeded" | "undone":
            draft.disarm(phase_timer("undo", row.seq))
            row = changed(row, status="succeeded", **_columns_of(input.reply))
            if isinstance(input, LocalDone) and input.data is not None:
                draft.replace_data(input.data)
            draft.log.put(row)
        case "unknown":
            _undo_again(draft, row, input)
        case _:
            _undo_refused(draft, row, input)


def _undo_refused(draft: Draft, row: StepRow, input: Replied | LocalDone | CallDone) -> None:
    """A person is told, and it is tried on, once an hour; the same refusal again says nothing."""
    known = row.status == "failed" and note_of(row).why is not None
    if known and not isinstance(input, CallDone):
        draft.ignore("duplicate")
    else:
        draft.arm(phase_timer("undo", row.seq), HOURLY)
        draft.log.put(noted(changed(row, status="failed"), why=_refusal(input.reply)))


def _undo_again(draft: Draft, row: StepRow, input: Replied | LocalDone | CallDone) -> None:
    """A command's undo has its timer armed; a call is executed again after a while."""
    if not isinstance(input, CallDone):
        draft.ignore("unknown")
    elif row.status == "failed" or row.attempt >= PATIENT.attempts:
        draft.arm(phase_timer("undo", row.seq), HOURLY)
        draft.log.put(changed(row, status="failed"))
    else:
        draft.arm(phase_timer("undo", row.seq), PATIENT.wait(row.attempt))
        draft.log.put(row)


def _refusal(reply: Reply | None) -> str:
    return "the participant refuses" if reply is None else f"{type(reply).__name__}: {reply!r}"


def _columns_of(reply: Reply | None) -> dict[str, Any]:
    if reply is None or type(reply) is Undone:
        return {}
    plan = plan_of(type(reply))
    return {"reply_type": plan.wire.type, "reply": plan.write(reply)}
