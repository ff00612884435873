"""Timers: what a step, a question, an undo or the deadline does when its time has come."""

from eventbus.saga.definition import PATIENT
from eventbus.saga.draft import DEADLINE, FINAL, Draft, phase_timer
from eventbus.saga.sending import HOURLY, ask, forward, passed_pivot, undo
from eventbus.saga.step_log import changed, note_of, noted
from eventbus.storage.sagas import StepRow

AUTHORS = "timer:"  # before the names that authors give


def fired(draft: Draft, name: str) -> None:
    """Act on a timer that was due; one whose reason is gone is late."""
    kind, _, rest = name.partition(":")
    if draft.status in FINAL:
        draft.ignore("late")
    elif name == DEADLINE:
        _deadline(draft)
    elif name.startswith(AUTHORS):
        _author(draft, rest)
    else:
        place = int(rest) if rest.isdecimal() else -1
        row = draft.log.get(place, "undo" if kind == "undo" else "forward")
        rule = {"step": _step, "resolve": _question, "undo": _undo}.get(kind)
        if row is None or rule is None or row.kind == "local":  # a local step has no timer
            draft.ignore("stray")
        else:
            rule(draft, row)


def _deadline(draft: Draft) -> None:
    """It changes the intent and nothing else."""
    if passed_pivot(draft):
        draft.ignore("overdue")
    elif draft.plan is not None or draft.intent is not None:
        draft.ignore("late")
    else:
        draft.intent = "deadline"


def _author(draft: Draft, name: str) -> None:
    if draft.plan is None:
        draft.definition.flow.rang(draft, name)
    else:
        draft.ignore("late")


def _step(draft: Draft, row: StepRow) -> None:
    spec = draft.definition.flow.spec(row)
    if row.status == "failed":
        forward(draft, row)
        if row.kind == "command":
            draft.arm(phase_timer("forward", row.seq), HOURLY)
    elif row.status != "dispatched":
        draft.ignore("late")
    elif row.kind == "wait":
        if spec.delay is None:
            status = noted(changed(row, status="rejected"), why="it did not come in time")
            draft.log.put(status)
        else:
            row = draft.log.put(changed(row, status="succeeded"))
            draft.definition.flow.waited(draft, row, None)
    elif passed_pivot(draft):
        _try_on(draft, row)
    elif row.attempt < spec.resend.attempts:
        forward(draft, row)
    else:
        draft.log.put(changed(row, status="unknown"))


def _try_on(draft: Draft, row: StepRow) -> None:
    """After the pivot: as patiently as an undo, then hourly and with a person."""
    if row.attempt < PATIENT.attempts:
        forward(draft, row)
    else:
        draft.log.put(changed(row, status="failed"))
        draft.arm(phase_timer("forward", row.seq), HOURLY)


def _question(draft: Draft, row: StepRow) -> None:
    """Asked often enough: a person is told, and it is asked on, once an hour."""
    if row.status != "unknown" or draft.plan is not None:
        draft.ignore("late")
        return
    asked = note_of(row).asked
    if draft.status == "stuck":
        ask(draft, row)
        if row.kind == "command":
            draft.arm(phase_timer("resolve", row.seq), HOURLY)
    elif asked < PATIENT.attempts:
        ask(draft, row)
    else:
        draft.arm(phase_timer("resolve", row.seq), HOURLY)
        draft.stick("unknown", f"nobody says what became of step {row.name!r}", row)


def _undo(draft: Draft, row: StepRow) -> None:
    if row.status == "failed":
        undo(draft, row)
        if row.kind == "command":
            draft.arm(phase_timer("undo", row.seq), HOURLY)
    elif row.status != "dispatched":
        draft.ignore("late")
    elif row.attempt < PATIENT.attempts:
        undo(draft, row)
    else:
        draft.log.put(changed(row, status="failed"))
        draft.arm(phase_timer("undo", row.seq), HOURLY)
