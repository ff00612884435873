"""What is old: finished sagas with all that hangs on them, and effects."""

import sqlite3
from datetime import timedelta

from eventbus.sqlite.rows import json_list
from eventbus.sqlite.saga_rows import delay
from eventbus.storage.sagas import EFFECTS_ARE_KEPT, HELD

_OLD = """
SELECT saga_id, saga_type FROM eventbus_saga
 WHERE finished_at IS NOT NULL AND finished_at <= eventbus_now() - ?
 ORDER BY finished_at LIMIT ?"""
_HANGS_ON_IT = (
    "eventbus_saga_step",
    "eventbus_saga_timer",
    "eventbus_saga_call",
    "eventbus_saga_correlation",
    "eventbus_saga_journal",
)
_FORGET = "DELETE FROM {} WHERE saga_id IN (SELECT value FROM json_each(?))"
_HELD = "DELETE FROM eventbus_saga_stash WHERE saga_type = ? AND name = ? AND value = ?"
_SAGAS = _FORGET.format("eventbus_saga") + " AND finished_at IS NOT NULL"
_EFFECTS = """
DELETE FROM eventbus_saga_effect WHERE effect_id IN (
  SELECT effect_id FROM eventbus_saga_effect WHERE created_at <= eventbus_now() - ?
   ORDER BY created_at LIMIT ?)"""


def sagas(connection: sqlite3.Connection, older_than: timedelta, limit: int) -> int:
    """The tombstone of a business key goes with its saga."""
    old = connection.execute(_OLD, (delay(older_than), limit)).fetchall()
    ids = json_list([row[0] for row in old])
    for table in _HANGS_ON_IT:
        connection.execute(_FORGET.format(table), (ids,))
    connection.executemany(_HELD, [(saga, HELD, saga_id) for saga_id, saga in old])
    return connection.execute(_SAGAS, (ids,)).rowcount


def effects(connection: sqlite3.Connection, older_than: timedelta, limit: int) -> int:
    """Younger ones answer commands that may still come."""
    age = delay(max(older_than, EFFECTS_ARE_KEPT))
    return connection.execute(_EFFECTS, (age, limit)).rowcount
