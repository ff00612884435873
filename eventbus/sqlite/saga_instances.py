"""Instances: found by their keys, started, locked, changed."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from eventbus.sqlite import saga_timers
from eventbus.sqlite.rows import Row
from eventbus.sqlite.saga_rows import (
    FINAL,
    RECORD,
    STEP,
    instance_row,
    moment,
    record_of,
    step_of,
    step_row,
)
from eventbus.sqlite.saga_rows import in_order as sorted_ids
from eventbus.storage.saga_verdicts import another_digest, not_locked
from eventbus.storage.sagas import (
    Correlation,
    DefinitionRow,
    Fired,
    SagaChange,
    SagaRecord,
    SagaStart,
)

_KNOWN = "SELECT digest FROM eventbus_saga_definition WHERE saga_type = ? AND version = ?"
_REGISTER = """
INSERT INTO eventbus_saga_definition (saga_type, version, digest, graph) VALUES (?, ?, ?, ?)
ON CONFLICT DO NOTHING"""
_BY_KEY = "SELECT saga_id FROM eventbus_saga WHERE saga_type = ? AND business_key = ?"
_BY_NAME = """
SELECT saga_id FROM eventbus_saga_correlation WHERE saga_type = ? AND name = ? AND value = ?"""
_START = """
INSERT INTO eventbus_saga (saga_id, saga_type, business_key, def_version, def_digest, status,
  data, data_version, version, created_at, updated_at, status_since)
VALUES (?, ?, ?, ?, ?, 'running', ?, ?, 0, eventbus_now(), eventbus_now(), eventbus_now())
ON CONFLICT (saga_type, business_key) DO NOTHING"""
_READ = f"SELECT {RECORD} FROM eventbus_saga WHERE saga_id = ?"
_STEPS = f"SELECT {STEP} FROM eventbus_saga_step WHERE saga_id = ? ORDER BY seq, phase"
_NOW = "SELECT eventbus_now()"
_VERSION = "SELECT 1 FROM eventbus_saga WHERE saga_id = ? AND version = ?"
_SAVE = """
UPDATE eventbus_saga SET
  def_version = ?, def_digest = ?, status = ?, paused = ?, intent = ?, state_name = ?, data = ?,
  data_version = ?, plan = ?, error = ?, version = ?, updated_at = eventbus_now(),
  status_since = CASE WHEN status = ? THEN status_since ELSE eventbus_now() END,
  finished_at = CASE WHEN ? THEN coalesce(finished_at, eventbus_now()) END
WHERE saga_id = ?"""
_STEP = f"""
INSERT INTO eventbus_saga_step AS s (saga_id, {STEP}, started_at, finished_at)
VALUES ({", ".join("?" * 12)}, eventbus_now(), CASE WHEN ? THEN eventbus_now() END)
ON CONFLICT (saga_id, seq, phase) DO UPDATE SET
  name = excluded.name, status = excluded.status, attempt = excluded.attempt,
  reply_type = excluded.reply_type, reply = excluded.reply, error = excluded.error,
  finished_at = CASE WHEN excluded.finished_at IS NULL THEN NULL
                     ELSE coalesce(s.finished_at, excluded.finished_at) END"""
_CALL = """
INSERT INTO eventbus_saga_call
  (effect_id, saga_type, saga_id, seq, phase, step, input, def_version, due_at)
SELECT ?, saga_type, saga_id, ?, ?, ?, ?, def_version, eventbus_now() FROM eventbus_saga
 WHERE saga_id = ?
ON CONFLICT (effect_id) DO UPDATE SET input = excluded.input, due_at = excluded.due_at"""
_CALLS_MOVE = """
UPDATE eventbus_saga_call SET def_version = ?1 WHERE saga_id = ?2 AND def_version <> ?1"""
_CORRELATE = """
INSERT INTO eventbus_saga_correlation (saga_type, name, value, saga_id) VALUES (?, ?, ?, ?)
ON CONFLICT DO NOTHING"""
_JOURNAL = """
INSERT INTO eventbus_saga_journal (saga_id, version, at, input_kind, input_id, from_status,
  to_status, detail, actor, worker)
VALUES (?, ?, eventbus_now(), ?, ?, ?, ?, ?, ?, ?)"""


def register(connection: sqlite3.Connection, definitions: Sequence[DefinitionRow]) -> None:
    """Look at all of them before one is written."""
    for one in definitions:
        known = connection.execute(_KNOWN, (one.saga, one.version)).fetchone()
        if known is not None and known[0] != one.digest:
            raise another_digest(one)
    rows = [(one.saga, one.version, one.digest, one.graph) for one in definitions]
    connection.executemany(_REGISTER, rows)


def find(connection: sqlite3.Connection, keys: Collection[Correlation]) -> dict[Correlation, UUID]:
    """The business key has no name."""
    found: dict[Correlation, UUID] = {}
    for key in keys:
        row = (
            connection.execute(_BY_NAME, (key.saga, key.name, key.value)).fetchone()
            if key.name
            else connection.execute(_BY_KEY, (key.saga, key.value)).fetchone()
        )
        if row is not None:
            found[key] = UUID(row[0])
    return found


def start(connection: sqlite3.Connection, starts: Sequence[SagaStart]) -> frozenset[UUID]:
    """One by one: of two with one key the first is new."""
    return frozenset(
        one.saga_id for one in starts if connection.execute(_START, _start_row(one)).rowcount == 1
    )


def _start_row(one: SagaStart) -> Row:
    return (
        str(one.saga_id),
        one.saga,
        one.key,
        one.definition,
        one.digest,
        one.data,
        one.definition,
    )


def read(
    connection: sqlite3.Connection, ids: Iterable[str], fired: dict[str, list[Fired]]
) -> list[SagaRecord]:
    """Instances with their steps, as they stand; an id without one is left out."""
    now = moment(connection.execute(_NOW).fetchone()[0])
    records: list[SagaRecord] = []
    for one in ids:
        row = connection.execute(_READ, (one,)).fetchone()
        if row is not None:
            steps = [step_of(step) for step in connection.execute(_STEPS, (one,))]
            records.append(record_of(row, steps, fired.get(one, []), now))
    return records


def lock(connection: sqlite3.Connection, ids: Collection[UUID]) -> list[SagaRecord]:
    """The only writer holds all of them."""
    return read(connection, sorted_ids(ids), {})


def save(connection: sqlite3.Connection, changes: Sequence[SagaChange]) -> None:
    """All versions are compared before one is written."""
    held = {
        one.saga_id
        for one in changes
        if connection.execute(_VERSION, (str(one.saga_id), one.was)).fetchone() is not None
    }
    if len(held) < len(changes):
        raise not_locked(changes, held)
    for one in changes:
        _write(connection, one)


def _write(connection: sqlite3.Connection, one: SagaChange) -> None:
    saga_id = str(one.saga_id)
    connection.execute(_SAVE, instance_row(one))
    connection.executemany(_STEP, [step_row(one.saga_id, step) for step in one.steps])
    connection.execute(_CALLS_MOVE, (one.definition, saga_id))
    calls = [
        (str(call.effect_id), call.seq, call.phase, call.step, call.input, saga_id)
        for call in one.calls
    ]
    connection.executemany(_CALL, calls)
    keys = [(key.saga, key.name, key.value, saga_id) for key in one.correlations]
    connection.executemany(_CORRELATE, keys)
    saga_timers.write(connection, one, ended=one.status in FINAL)
    connection.executemany(_JOURNAL, _journal_rows(one))


def _journal_rows(one: SagaChange) -> list[Row]:
    return [
        (
            str(one.saga_id),
            entry.version,
            entry.input_kind,
            entry.input_id,
            entry.from_status,
            entry.to_status,
            entry.detail,
            entry.actor,
            entry.worker,
        )
        for entry in one.journal
    ]
