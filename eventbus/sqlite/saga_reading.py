"""What operators look at: sagas, timers, journals."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from eventbus.sqlite.rows import NEVER, Row, json_list
from eventbus.sqlite.saga_rows import delay, moment
from eventbus.storage.sagas import (
    ArmedTimer,
    InFlight,
    JournalEntry,
    Journalled,
    SagaQuery,
    SagaSummary,
)

_AT_STEP = """(
  SELECT x.name FROM eventbus_saga_step x
   WHERE x.saga_id = s.saga_id AND x.status IN ('ready', 'dispatched', 'unknown', 'failed')
   ORDER BY x.seq DESC, x.phase DESC LIMIT 1)"""
_LOOK = f"""
SELECT s.saga_id, s.saga_type, s.business_key, s.def_version, s.def_digest, s.status, s.paused,
  s.intent, s.state_name, {_AT_STEP} AS step, s.error, s.version,
  eventbus_now() - s.created_at, eventbus_now() - s.status_since
  FROM eventbus_saga s
 WHERE (?1 IS NULL OR s.saga_type = ?1) AND (?2 IS NULL OR s.business_key = ?2)
   AND (?3 IS NULL OR s.status = ?3) AND (?4 IS NULL OR s.status_since <= eventbus_now() - ?4)
   AND (?5 IS NULL OR s.saga_id IN (SELECT value FROM json_each(?5)))
   AND (?6 IS NULL OR step = ?6)
 ORDER BY s.status_since, s.saga_id LIMIT ?7"""
_TIMERS = """
SELECT t.saga_id, t.saga_type, s.business_key, t.name, t.due_at, t.due_at - eventbus_now()
  FROM eventbus_saga_timer t JOIN eventbus_saga s USING (saga_id)
 WHERE (?1 IS NULL OR t.saga_id IN (SELECT value FROM json_each(?1)))
   AND (NOT ?2 OR t.due_at <= eventbus_now())
 ORDER BY t.due_at, t.saga_id, t.name LIMIT ?3"""
_JOURNAL = """
SELECT at, version, input_kind, input_id, from_status, to_status, detail, actor, worker
  FROM eventbus_saga_journal WHERE saga_id = ? ORDER BY version"""
_IN_FLIGHT = f"""
SELECT o.saga_type, o.def_version, o.def_digest, d.graph, o.state_name, o.step, o.status, count(*)
  FROM (SELECT s.saga_type, s.def_version, s.def_digest, s.state_name, s.status, {_AT_STEP} AS step
          FROM eventbus_saga s WHERE s.finished_at IS NULL) o
  LEFT JOIN eventbus_saga_definition d
    ON d.saga_type = o.saga_type AND d.version = o.def_version AND d.digest = o.def_digest
 GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 5, 6, 7"""


def look(connection: sqlite3.Connection, query: SagaQuery, *, limit: int) -> list[SagaSummary]:
    """Those longest in their status first."""
    values = (
        query.saga,
        query.key,
        query.status,
        delay(query.older_than),
        _ids(query.ids),
        query.step,
        limit,
    )
    return [_summary(row) for row in connection.execute(_LOOK, values)]


def timers(
    connection: sqlite3.Connection, ids: Collection[UUID], *, due: bool, limit: int
) -> list[ArmedTimer]:
    """The next one first; those of paused sagas are due never."""
    return [
        ArmedTimer(
            saga_id=UUID(row[0]),
            saga=row[1],
            key=row[2],
            name=row[3],
            due_in=None if row[4] >= NEVER else timedelta(milliseconds=row[5]),
        )
        for row in connection.execute(_TIMERS, (_ids(ids), due, limit))
    ]


def journal(connection: sqlite3.Connection, saga_id: UUID) -> list[Journalled]:
    """In order of the transitions."""
    return [
        Journalled(
            moment(row[0]),
            JournalEntry(
                version=row[1],
                input_kind=row[2],
                input_id=row[3],
                from_status=row[4],
                to_status=row[5],
                detail=row[6],
                actor=row[7],
                worker=row[8],
            ),
        )
        for row in connection.execute(_JOURNAL, (str(saga_id),))
    ]


def in_flight(connection: sqlite3.Connection) -> list[InFlight]:
    """By type, version, state, step and status."""
    return [
        InFlight(
            saga=r[0],
            definition=r[1],
            digest=r[2],
            graph=r[3],
            state=r[4],
            step=r[5],
            status=r[6],
            count=r[7],
        )
        for r in connection.execute(_IN_FLIGHT)
    ]


def _ids(ids: Collection[UUID]) -> str | None:
    return json_list(sorted(str(one) for one in ids)) if ids else None


def _summary(row: Row) -> SagaSummary:
    return SagaSummary(
        saga_id=UUID(row[0]),
        saga=row[1],
        key=row[2],
        definition=row[3],
        digest=row[4],
        status=row[5],
        paused=bool(row[6]),
        intent=row[7],
        state_name=row[8],
        step=row[9],
        error=row[10],
        version=row[11],
        age=timedelta(milliseconds=row[12]),
        in_status=timedelta(milliseconds=row[13]),
    )
