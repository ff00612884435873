"""What turning back would do now: one text for the command line, the dashboard and the audit."""

from datetime import UTC, datetime

from eventbus.saga.compensation import plan_of_undos
from eventbus.saga.definition import Definition
from eventbus.saga.draft import Draft
from eventbus.saga.instance import Instance, Steps
from eventbus.saga.intervention import no_way_back
from eventbus.saga.migration import migrated
from eventbus.saga.sending import known_reply, passed_pivot
from eventbus.storage.sagas import StepRow

_SEPARATOR = "  ·  "


def preview(definition: Definition, saga: Instance, steps: Steps) -> str:
    """What `compensate` would send, in order, or why it would be refused; nothing is decided.

    Args:
        definition: of the version that the saga is pinned to, or one that takes it over.
        saga: as it stands.
        steps: its step log.

    Raises:
        SagaError: EB7007, nothing leads from its version to the definition's.
        SagaMethodError: EB7002, a migration failed.
    """
    draft = migrated(definition, saga, steps, datetime.min.replace(tzinfo=UTC))
    why = no_way_back(draft)
    if why is not None:
        return _SEPARATOR.join([f"would be refused: {why}", *_left(draft)])
    undos = [
        f"{number} {_sends(draft, line.seq)}"
        for number, line in enumerate(plan_of_undos(draft).undos, 1)
    ]
    first = f"would send: {'  '.join(undos)}" if undos else "would send nothing"
    begun = {row.name for row in draft.log.forwards}
    idle = [f"{spec.name} not started" for spec in definition.steps if spec.name not in begun]
    passed = "passed" if passed_pivot(draft) else "not passed"
    return _SEPARATOR.join([first, *idle, f"pivot {passed}"])


def _left(draft: Draft) -> list[str]:
    """Of a plan that is made: what is not undone yet."""
    lines = () if draft.plan is None else draft.plan.undos
    done = {"succeeded", "skipped"}
    left = [
        _sends(draft, line.seq)
        for line in lines
        if (row := draft.log.get(line.seq, "undo")) is None or row.status not in done
    ]
    return [f"left to undo: {'  '.join(left)}"] if left else []


def _sends(draft: Draft, seq: int) -> str:
    row = draft.log.forward(seq)
    spec = draft.definition.flow.spec(row)
    what = spec.undo_command.__name__ if spec.undo_command is not None else str(spec.undo)
    return f"{what} ({row.name}: {_known(draft, row)})"


def _known(draft: Draft, row: StepRow) -> str:
    if row.status != "succeeded":
        return "unknown"
    reply = known_reply(draft, row)
    values = [] if reply is None else [str(value) for value in reply.model_dump().values()]
    return " ".join(values) or "done"
