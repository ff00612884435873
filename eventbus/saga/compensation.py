"""Turning back: the plan, frozen when it begins, and its undos one by one."""

from eventbus.saga.definition import effect_of
from eventbus.saga.draft import DEADLINE, Draft, illegal, phase_timer
from eventbus.saga.instance import Plan, Undoing
from eventbus.saga.sending import ask, passed_pivot, undo
from eventbus.saga.step_log import OPEN, REFUSED, changed, note_of, noted
from eventbus.storage.sagas import StepRow, StepStatus


def turn_back(draft: Draft, why: str) -> bool:
    """Compensate as soon as that is safe; whether the status changed.

    While the pivot is in flight nobody knows whether there is a way back: it is asked first.
    """
    pivot = pivot_in_flight(draft)
    if pivot is None:
        begin(draft)
        return True
    draft.intent = draft.intent or why
    if draft.status == "resolving" and note_of(pivot).asked:
        return False
    ask(draft, pivot)
    changed = draft.status != "resolving"
    draft.status = "resolving"
    return changed


def pivot_in_flight(draft: Draft) -> StepRow | None:
    """The pivot, if it was sent and what became of it is not known."""
    for row in draft.log.forwards:
        if row.status in OPEN and draft.definition.flow.spec(row).pivot:
            return row
    return None


def begin(draft: Draft) -> None:
    """Make the plan: what is done or unknown and has an undo, last started first.

    Raises:
        IllegalTransitionError: EB7001, the pivot is in flight or has passed.
    """
    if pivot_in_flight(draft) is not None or passed_pivot(draft):
        raise illegal(draft, "turns back at or after its pivot")
    for row in draft.log.forwards:
        _close(draft, row)
    draft.disarm(DEADLINE)
    draft.plan = plan_of_undos(draft)
    draft.status, draft.error = "compensating", None


def _close(draft: Draft, row: StepRow) -> None:
    """What is still open becomes unknown; a wait has no effect anywhere."""
    if row.status == "dispatched":
        status: StepStatus = "cancelled" if row.kind == "wait" else "unknown"
        draft.log.put(changed(row, status=status))
        draft.disarm(phase_timer("forward", row.seq))
    elif row.status == "unknown" and note_of(row).asked:
        draft.disarm(phase_timer("resolve", row.seq))


def plan_of_undos(draft: Draft) -> Plan:
    """What would be undone now, in this order."""
    lines: list[Undoing] = []
    for row in reversed(draft.log.forwards):
        spec = draft.definition.flow.spec(row)
        if row.status in {"succeeded", "unknown", "dispatched"} and spec.undo is not None:
            lines.append(Undoing(seq=row.seq, step=row.name, undo=spec.undo))
    return Plan(tuple(lines))


def onward(draft: Draft) -> bool:
    """The next undo after the confirmation of the one before; whether the status changed."""
    failed: StepRow | None = None
    for line in () if draft.plan is None else draft.plan.undos:
        row = draft.log.get(line.seq, "undo")
        if row is None and not _begin_undo(draft, draft.log.forward(line.seq)):
            return False
        if row is None or row.status in {"succeeded", "skipped"}:
            continue
        if row.status == "dispatched":
            return False
        failed = failed or row
        if not draft.definition.flow.spec(draft.log.forward(line.seq)).independent_undo:
            break
    if failed is not None:
        draft.stick("undo-failed", f"the undo of step {failed.name!r} {_how(failed)}", failed)
        return True
    draft.status = "compensated"
    return True


def _begin_undo(draft: Draft, done: StepRow) -> bool:
    """Send it; True: there is nothing to undo, the next one may begin."""
    if done.kind == "call" and note_of(done).working:
        return False  # a worker has the call: undone before it ended, it might take effect after
    row = StepRow(
        seq=done.seq,
        phase="undo",
        name=done.name,
        occurrence=done.occurrence,
        kind=done.kind,
        effect_id=effect_of(draft.before.saga_id, done.name, done.occurrence, "undo"),
        status="dispatched",
    )
    if done.kind == "call" and done.status in REFUSED:
        draft.log.put(noted(changed(row, status="skipped"), why="the call had no effect"))
        return True
    undo(draft, row)
    return False


def _how(row: StepRow) -> str:
    why = note_of(row).why
    if why is not None:
        return f"failed: {why}"
    if row.kind != "command":
        return "was tried often enough"
    # One that its participant gave up on holds its key, and its own undo waits behind it.
    return (
        f"was sent {row.attempt} times and nobody answered: its participant is away, or keeps it,"
        " or what is before it, as a dead letter"
    )
