"""What is deleted after its time, in batches: the statements behind `SqliteStorage.prune`."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import sqlite3
from datetime import timedelta

import orjson

from eventbus.sqlite.own_tables import TABLES, quoted
from eventbus.sqlite.rows import milliseconds
from eventbus.sqlite.session import Session
from eventbus.storage.projections import KEPT_RETIRED, beside, rows_of

ATTEMPTS = timedelta(days=7)
LETTERS = timedelta(days=30)
AUDIT = timedelta(days=400)
RELAYS = timedelta(hours=1)

# Leases of shared names stay for ever: their epoch must not start again.
_OLD = (
    """
DELETE FROM eventbus_inbox WHERE (group_name, message) IN (
  SELECT group_name, message FROM eventbus_inbox WHERE seen < eventbus_now() - ?
   ORDER BY seen LIMIT ?)""",
    """
DELETE FROM eventbus_attempts WHERE (group_name, message) IN (
  SELECT group_name, message FROM eventbus_attempts WHERE at < eventbus_now() - ?
   ORDER BY at LIMIT ?)""",
    """
DELETE FROM eventbus_discarded WHERE rowid IN (
  SELECT rowid FROM eventbus_discarded WHERE discarded_at < eventbus_now() - ?
   ORDER BY discarded_at LIMIT ?)""",
    """
DELETE FROM eventbus_audit WHERE id IN (
  SELECT id FROM eventbus_audit WHERE at < eventbus_now() - ? ORDER BY at LIMIT ?)""",
    """
DELETE FROM eventbus_leases WHERE name IN (
  SELECT name FROM eventbus_leases
   WHERE (name >= 'relay/' AND name < 'relay0' OR name >= 'following/' AND name < 'following0')
     AND until < eventbus_now() - ? LIMIT ?)""",
)
# What was truncated, and the events of tombstoned streams.
_CUT = """
DELETE FROM eventbus_events WHERE position IN (
  SELECT e.position FROM eventbus_streams s JOIN eventbus_events e USING (stream_id)
   WHERE (s.state = 2 OR s.kept_from > 1) AND (s.state = 2 OR e.version < s.kept_from)
   ORDER BY s.stream_id, e.version LIMIT ?)"""
# One that is building and was switched from: a rollback was cut off, and nobody went on with it.
_RETIRED = f"""
SELECT name, version, {TABLES} FROM eventbus_projections
 WHERE status IN ('retired', 'building') AND switched_at < eventbus_now() - ?
 ORDER BY switched_at LIMIT ?"""
_SCANNED = "SELECT name, version FROM eventbus_projections WHERE status <> 'building'"
_SNAPSHOTS = """
DELETE FROM eventbus_snapshots WHERE stream_id IN (
  SELECT stream_id FROM eventbus_streams WHERE state = 2)"""


def _retired(connection: sqlite3.Connection, limit: int) -> int:
    """Versions of read models that nobody goes back to, and what scans and workers have left."""
    gone = 0
    old = connection.execute(_RETIRED, (milliseconds(KEPT_RETIRED), limit)).fetchall()
    for name, version, tables in old:
        for table in orjson.loads(tables):
            connection.execute(f"DROP TABLE IF EXISTS {quoted(beside(table, version))}")
        connection.execute(
            "DELETE FROM eventbus_projections WHERE name = ? AND version = ?", (name, version)
        )
        gone += 1 + _deleted(connection, rows_of(name, version, scan=False))
    for name, version in connection.execute(_SCANNED).fetchall():
        gone += _deleted(connection, rows_of(name, version, scan=True))
    return gone


def _deleted(connection: sqlite3.Connection, rows: list[tuple[str, str, str]]) -> int:
    return sum(
        connection.execute(
            f"DELETE FROM eventbus_{table} WHERE substr({column}, 1, length(?1)) = ?1",
            (prefix,),
        ).rowcount
        for table, column, prefix in rows
    )


async def prune(session: Session, *, inbox: timedelta, limit: int) -> int:
    """Delete at most `limit` rows of each kind; how many it were."""
    ages = [milliseconds(age) for age in (inbox, ATTEMPTS, LETTERS, AUDIT, RELAYS)]

    def delete(connection: sqlite3.Connection) -> int:
        gone = sum(
            connection.execute(statement, (age, limit)).rowcount
            for statement, age in zip(_OLD, ages, strict=True)
        )
        gone += _retired(connection, limit)
        connection.execute(_SNAPSHOTS)
        return gone + connection.execute(_CUT, (limit,)).rowcount

    return await session.run("prune", delete, slow=True)
