"""Timers: armed, frozen and fired with the transition that wanted it."""

import sqlite3
from collections.abc import Collection
from datetime import timedelta

from eventbus.sqlite.rows import NEVER
from eventbus.sqlite.saga_rows import delay
from eventbus.storage.sagas import Fired, SagaChange

WINDOW = 400  # due timers of one definition that are looked through

_CLEAR = "DELETE FROM eventbus_saga_timer WHERE saga_id = ?"
_DISARM = "DELETE FROM eventbus_saga_timer WHERE saga_id = ? AND name = ?"
_MOVE = """
UPDATE eventbus_saga_timer SET def_version = ?1 WHERE saga_id = ?2 AND def_version <> ?1"""
_ARM = """
INSERT INTO eventbus_saga_timer (saga_id, name, saga_type, def_version, epoch, due_at)
SELECT saga_id, ?, saga_type, def_version, ?, eventbus_now() + ? FROM eventbus_saga
 WHERE saga_id = ?
ON CONFLICT (saga_id, name) DO UPDATE SET
  epoch = excluded.epoch, due_at = excluded.due_at, def_version = excluded.def_version,
  remaining = NULL"""
_FREEZE = """
UPDATE eventbus_saga_timer SET remaining = max(due_at - eventbus_now(), 0), due_at = ?
 WHERE saga_id = ? AND remaining IS NULL"""
_THAW = """
UPDATE eventbus_saga_timer SET due_at = eventbus_now() + remaining, remaining = NULL
 WHERE saga_id = ? AND remaining IS NOT NULL"""
_DUE = """
SELECT t.saga_id FROM eventbus_saga_timer t JOIN eventbus_saga s USING (saga_id)
 WHERE t.saga_type = ? AND t.def_version = ? AND t.due_at <= eventbus_now()
   AND NOT s.paused AND s.finished_at IS NULL
 ORDER BY t.due_at LIMIT ?"""
_FIRE = """
DELETE FROM eventbus_saga_timer WHERE saga_id = ? AND due_at <= eventbus_now()
RETURNING due_at, name, epoch"""
_NEXT = """
SELECT min(due_at) - eventbus_now() FROM eventbus_saga_timer
 WHERE saga_type = ? AND def_version = ? AND due_at < ?"""


def write(connection: sqlite3.Connection, change: SagaChange, *, ended: bool) -> None:
    """Disarm, then arm; a saga that ended has none, one that is paused has none that fires."""
    saga_id = str(change.saga_id)
    if ended:
        connection.execute(_CLEAR, (saga_id,))
        return
    connection.executemany(_DISARM, [(saga_id, name) for name in change.disarm])
    connection.execute(_MOVE, (change.definition, saga_id))
    armed = [(arm.name, arm.epoch, delay(arm.delay), saga_id) for arm in change.arm]
    connection.executemany(_ARM, armed)
    if change.paused:
        connection.execute(_FREEZE, (NEVER, saga_id))
    else:
        connection.execute(_THAW, (saga_id,))


def fire(
    connection: sqlite3.Connection, definitions: Collection[tuple[str, int]], *, limit: int
) -> dict[str, list[Fired]]:
    """Delete what is due of at most `limit` sagas, by id; of each in the order of time."""
    due: set[str] = set()
    for saga, version in definitions:
        due |= {row[0] for row in connection.execute(_DUE, (saga, version, WINDOW))}
    return {one: _fired(connection, one) for one in sorted(due)[:limit]}


def _fired(connection: sqlite3.Connection, saga_id: str) -> list[Fired]:
    rows = connection.execute(_FIRE, (saga_id,)).fetchall()
    return [Fired(name, epoch) for _, name, epoch in sorted(rows)]


def next_due(
    connection: sqlite3.Connection, definitions: Collection[tuple[str, int]]
) -> timedelta | None:
    """Timers of paused sagas are due never."""
    waits = [
        row[0]
        for saga, version in definitions
        for row in connection.execute(_NEXT, (saga, version, NEVER))
        if row[0] is not None
    ]
    return timedelta(milliseconds=max(min(waits), 0)) if waits else None
