"""Sagas <-> rows."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from eventbus.sqlite.rows import NEVER, Row, milliseconds
from eventbus.storage.sagas import Call, EffectRow, Fired, SagaChange, SagaRecord, StepRow

RECORD = (
    "saga_id, saga_type, business_key, def_version, def_digest, status, paused, intent, "
    "state_name, data, data_version, plan, error, version"
)
STEP = "seq, phase, name, occurrence, kind, effect_id, status, attempt, reply_type, reply, error"
CALL = "effect_id, saga_id, saga_type, def_version, seq, phase, step, input, attempt, owner, fence"
EFFECT = "effect_id, state, reply_type, reply, undo_reply_type, undo_reply, fence"
FINAL = frozenset({"completed", "compensated"})
RUNNING_STEP = frozenset({"ready", "dispatched"})


def record_of(
    row: Row, steps: Sequence[StepRow], fired: Sequence[Fired], now: datetime
) -> SagaRecord:
    """The instance of the columns `RECORD`."""
    return SagaRecord(
        saga_id=UUID(row[0]),
        saga=row[1],
        key=row[2],
        definition=row[3],
        digest=row[4],
        status=row[5],
        paused=bool(row[6]),
        intent=row[7],
        state_name=row[8],
        data=row[9],
        data_version=row[10],
        plan=row[11],
        error=row[12],
        version=row[13],
        steps=steps,
        fired=fired,
        now=now,
    )


def step_of(row: Row) -> StepRow:
    """The step of the columns `STEP`."""
    return StepRow(
        seq=row[0],
        phase=row[1],
        name=row[2],
        occurrence=row[3],
        kind=row[4],
        effect_id=UUID(row[5]),
        status=row[6],
        attempt=row[7],
        reply_type=row[8],
        reply=row[9],
        error=row[10],
    )


def step_row(saga_id: UUID, step: StepRow) -> Row:
    """Saga, columns `STEP`, and whether it has ended."""
    return (
        str(saga_id),
        step.seq,
        step.phase,
        step.name,
        step.occurrence,
        step.kind,
        str(step.effect_id),
        step.status,
        step.attempt,
        step.reply_type,
        step.reply,
        step.error,
        step.status not in RUNNING_STEP,
    )


def call_of(row: Row) -> Call:
    """The call of the columns `CALL`."""
    return Call(
        effect_id=UUID(row[0]),
        saga_id=UUID(row[1]),
        saga=row[2],
        definition=row[3],
        seq=row[4],
        phase=row[5],
        step=row[6],
        input=row[7],
        attempt=row[8],
        owner=row[9],
        fence=row[10],
    )


def effect_of(row: Row, *, new: bool) -> EffectRow:
    """The effect of the columns `EFFECT`."""
    return EffectRow(
        effect_id=UUID(row[0]),
        new=new,
        state=row[1],
        reply_type=row[2],
        reply=row[3],
        undo_reply_type=row[4],
        undo_reply=row[5],
        fence=row[6],
    )


def instance_row(change: SagaChange) -> Row:
    """What `save` writes into the instance."""
    return (
        change.definition,
        change.digest,
        change.status,
        change.paused,
        change.intent,
        change.state_name,
        change.data,
        change.data_version,
        change.plan,
        change.error,
        change.version,
        change.status,
        change.status in FINAL,
        str(change.saga_id),
    )


def moment(now: int) -> datetime:
    """The database's time of the tables' unit."""
    return datetime.fromtimestamp(now / 1000, UTC)


def delay(span: timedelta | None) -> int | None:
    """Milliseconds, at most what still adds to a time of the tables."""
    return None if span is None else min(milliseconds(span), NEVER // 2)


def in_order(ids: Collection[UUID]) -> list[str]:
    """Ids as texts, sorted and each once: the order of locks."""
    return sorted({str(one) for one in ids})
