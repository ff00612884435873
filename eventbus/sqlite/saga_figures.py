"""Gauges of sagas: how many are open, which need somebody, what is late."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3

from eventbus.sqlite.picking import COUNT_UP_TO

_TYPES = "SELECT DISTINCT saga_type FROM eventbus_saga_definition ORDER BY saga_type"
_OPEN = "FROM eventbus_saga WHERE saga_type = ?1 AND status = ?2 AND finished_at IS NULL"
# Along the index of what is open. What has ended may be millions, and is not counted.
_STATUS = f"""
SELECT (SELECT count(*) FROM (SELECT 1 {_OPEN} LIMIT {COUNT_UP_TO})),
  coalesce((SELECT eventbus_now() - status_since {_OPEN} ORDER BY status_since LIMIT 1), 0)"""
_STASHED = f"SELECT count(*) FROM (SELECT 1 FROM eventbus_saga_stash LIMIT {COUNT_UP_TO})"
# Those of paused sagas are due never; those of a version that no worker has are the latest.
_LATE = """
SELECT coalesce(max(eventbus_now() - (
    SELECT t.due_at FROM eventbus_saga_timer t
     WHERE t.saga_type = d.saga_type AND t.def_version = d.version AND t.due_at <= eventbus_now()
     ORDER BY t.due_at LIMIT 1)), 0)
  FROM eventbus_saga_definition d"""


def figures(connection: sqlite3.Connection) -> dict[str, float]:
    """`saga_instances{transfer,running}` and so on."""
    found: dict[str, float] = {}
    stuck = unknown = 0
    for (saga,) in connection.execute(_TYPES).fetchall():
        for status in ("running", "resolving", "compensating", "stuck"):
            amount, oldest = connection.execute(_STATUS, (saga, status)).fetchone()
            found[f"saga_instances{{{saga},{status}}}"] = float(amount)
            if status == "stuck":
                stuck += amount
            if status == "resolving":
                unknown = max(unknown, oldest)
    found["saga_stuck_instances"] = float(min(stuck, COUNT_UP_TO))
    found["saga_oldest_unknown_age_seconds"] = unknown / 1000
    found["saga_stashed_messages"] = float(connection.execute(_STASHED).fetchone()[0])
    found["timer_lag_seconds"] = connection.execute(_LATE).fetchone()[0] / 1000
    return found
