"""Sagas <-> rows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from eventbus.postgres.rows import message_of
from eventbus.storage.sagas import (
    Call,
    Correlation,
    EffectRow,
    Fired,
    SagaRecord,
    Stashed,
    StepRow,
)

RECORD = (
    "saga_id, saga_type, business_key, def_version, def_digest, status, paused, intent, "
    "state_name, data, data_version, plan, error, version"
)
STEP = "seq, phase, name, occurrence, kind, effect_id, status, attempt, reply_type, reply, error"
CALL = "effect_id, saga_id, saga_type, def_version, seq, phase, step, input, attempt, owner, fence"
EFFECT = "effect_id, state, reply_type, reply, undo_reply_type, undo_reply, fence"
FINAL = frozenset({"completed", "compensated"})

_LONGEST = timedelta(days=365_000)  # what is added to a time must stay a time


def record_of(row: Sequence[Any], steps: Sequence[StepRow], fired: Sequence[Fired]) -> SagaRecord:
    """The instance of the columns `RECORD` and `now`: by place, which is the quickest."""
    saga_id, saga, key, version, digest, status, paused, intent, name, data, of, *rest = row
    plan, error, transitions, now = rest
    return SagaRecord(
        saga_id=saga_id,
        saga=saga,
        key=key,
        definition=version,
        digest=digest,
        status=status,
        paused=paused,
        intent=intent,
        state_name=name,
        data=data,
        data_version=of,
        plan=plan,
        error=error,
        version=transitions,
        steps=steps,
        fired=fired,
        now=now,
    )


def step_of(row: Sequence[Any]) -> StepRow:
    """The step of the saga's id and the columns `STEP`, by place."""
    _, seq, phase, name, occurrence, kind, effect_id, status, attempt, kept, reply, error = row
    return StepRow(
        seq=seq,
        phase=phase,
        name=name,
        occurrence=occurrence,
        kind=kind,
        effect_id=effect_id,
        status=status,
        attempt=attempt,
        reply_type=kept,
        reply=reply,
        error=error,
    )


def call_of(row: Mapping[str, Any]) -> Call:
    """The call of the columns `CALL`."""
    return Call(
        effect_id=row["effect_id"],
        saga_id=row["saga_id"],
        saga=row["saga_type"],
        definition=row["def_version"],
        seq=row["seq"],
        phase=row["phase"],
        step=row["step"],
        input=row["input"],
        attempt=row["attempt"],
        owner=row["owner"],
        fence=row["fence"],
    )


def effect_of(row: Mapping[str, Any], *, new: bool) -> EffectRow:
    """The effect of the columns `EFFECT`."""
    return EffectRow(
        effect_id=row["effect_id"],
        new=new,
        state=row["state"],
        reply_type=row["reply_type"],
        reply=row["reply"],
        undo_reply_type=row["undo_reply_type"],
        undo_reply=row["undo_reply"],
        fence=row["fence"],
    )


def stashed_of(row: Mapping[str, Any]) -> Stashed:
    """An input of the stash, whole."""
    return Stashed(
        key=Correlation(row["saga_type"], row["name"], row["value"]),
        message=message_of(row, row["message_key"]),
        ttl=row["ttl"],
        row=row["id"],
    )


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as an array for each of `width` columns, as unnest takes them.

    What is NULL in every row is an empty array: unnest fills it up, and the driver looks at each
    element of an array.
    """
    found = [[row[place] for row in rows] for place in range(width)]
    return [[] if all(value is None for value in column) else column for column in found]


def delay(span: timedelta | None) -> timedelta | None:
    """A span that can be added to any time of now."""
    return None if span is None else min(span, _LONGEST)


def in_order(ids: Sequence[UUID]) -> list[UUID]:
    """Ids sorted, each once: the order of locks, which is the database's too."""
    return sorted(set(ids))
