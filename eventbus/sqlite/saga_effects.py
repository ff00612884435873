"""The participant's fence: one row per effect, which stays."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Collection, Sequence
from uuid import UUID

from eventbus.sqlite.rows import Row
from eventbus.sqlite.saga_rows import EFFECT, delay, effect_of
from eventbus.storage.saga_verdicts import not_ours
from eventbus.storage.sagas import EffectEnd, EffectRow, EffectStart

_BEGIN = """
INSERT INTO eventbus_saga_effect (effect_id, saga_id, step, state, lease_until, created_at)
VALUES (?, ?, ?, ?, eventbus_now() + ?, eventbus_now())
ON CONFLICT (effect_id) DO NOTHING"""
_TAKE_OVER = """
UPDATE eventbus_saga_effect SET fence = fence + 1, lease_until = eventbus_now() + ?
 WHERE effect_id = ? AND state = 'executing' AND lease_until <= eventbus_now()"""
_READ = f"SELECT {EFFECT} FROM eventbus_saga_effect WHERE effect_id = ?"
_FORGET = "DELETE FROM eventbus_saga_effect WHERE effect_id = ?"
_STATE = "SELECT state FROM eventbus_saga_effect WHERE effect_id = ? AND fence = ?"
_END = """
UPDATE eventbus_saga_effect SET state = ?1, reply_type = ?2, reply = ?3,
  lease_until = CASE WHEN ?1 = 'executing' THEN eventbus_now() END
 WHERE effect_id = ?4"""
_UNDONE = """
UPDATE eventbus_saga_effect SET state = ?, undo_reply_type = ?, undo_reply = ?
 WHERE effect_id = ?"""
_AFTER = {
    "done": {"executing"},
    "rejected": {"executing"},
    "unknown": {"executing"},
    "executing": {"executing"},
    "undone": {"done", "unknown"},
}


def begin(connection: sqlite3.Connection, effects: Sequence[EffectStart]) -> list[EffectRow]:
    """Insert or take over, else say what stands."""
    return [_begin(connection, one) for one in effects]


def _begin(connection: sqlite3.Connection, one: EffectStart) -> EffectRow:
    effect_id = str(one.effect_id)
    lease = delay(one.lease)
    saga_id = None if one.saga_id is None else str(one.saga_id)
    row = (effect_id, saga_id, one.step, one.state, lease)
    new = connection.execute(_BEGIN, row).rowcount == 1
    if not new and one.state == "executing":
        new = connection.execute(_TAKE_OVER, (lease, effect_id)).rowcount == 1
    return effect_of(connection.execute(_READ, (effect_id,)).fetchone(), new=new)


def forget(connection: sqlite3.Connection, ids: Collection[UUID]) -> None:
    """Nobody else has seen them."""
    connection.executemany(_FORGET, [(str(one),) for one in ids])


def finish(connection: sqlite3.Connection, effects: Sequence[EffectEnd]) -> None:
    """All are compared before one is written."""
    ours = {one.effect_id for one in effects if _may_end(connection, one)}
    if len(ours) < len(effects):
        raise not_ours(effects, ours)
    for one in effects:
        statement = _UNDONE if one.state == "undone" else _END
        connection.execute(statement, _end_row(one))


def _may_end(connection: sqlite3.Connection, one: EffectEnd) -> bool:
    row = connection.execute(_STATE, (str(one.effect_id), one.fence)).fetchone()
    return row is not None and row[0] in _AFTER[one.state]


def _end_row(one: EffectEnd) -> Row:
    return (one.state, one.reply_type, one.reply, str(one.effect_id))
