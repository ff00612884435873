"""Going on: what follows from the step log while the saga runs, before and after its pivot."""

from eventbus.saga import compensation
from eventbus.saga.draft import Draft, phase_timer
from eventbus.saga.sending import HOURLY, ask, passed_pivot
from eventbus.saga.step_log import REFUSED, changed, note_of
from eventbus.storage.sagas import StepRow


def onward(draft: Draft) -> bool:
    """Turn back, ask, get stuck, or start what comes next; whether the status changed."""
    if passed_pivot(draft):
        return _after_the_pivot(draft)
    why = draft.intent or refusal(draft)
    if why is not None:
        return compensation.turn_back(draft, why)
    for row in draft.log.forwards:
        if row.status == "unknown":
            return doubt(draft, row)
    return draft.definition.flow.onward(draft)


def doubt(draft: Draft, row: StepRow) -> bool:
    """What its step says is done about an unknown outcome; whether the status changed."""
    match draft.definition.flow.spec(row).on_unknown:
        case "resolve":
            ask(draft, row)
            changed = draft.status != "resolving"
            draft.status = "resolving"
            return changed
        case "stuck":
            draft.stick("unknown", f"no answer from step {row.name!r}", row)
            return True
        case _:
            return compensation.turn_back(draft, f"unknown: {row.name}")


def refusal(draft: Draft) -> str | None:
    """The first step that had no effect, and that nobody handled."""
    for row in draft.log.forwards:
        if row.status in REFUSED and not note_of(row).taken:
            return f"{row.status}: {row.name}"
    return None


def _after_the_pivot(draft: Draft) -> bool:
    """Only forward: a step that cannot be done needs a person."""
    for row in draft.log.forwards:
        if row.status == "unknown":
            row = draft.log.put(changed(row, status="failed"))  # noqa: PLW2901 - the row as it is now
            draft.arm(phase_timer("forward", row.seq), HOURLY)
        if row.status == "failed" or (row.status in REFUSED and not note_of(row).taken):
            draft.stick("attempts", _cannot(row), row)
            return True
    return draft.definition.flow.onward(draft)


def _cannot(row: StepRow) -> str:
    how = "was tried often enough" if row.status == "failed" else f"was {row.status}"
    return f"step {row.name!r} {how}, and the pivot has passed"
