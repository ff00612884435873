"""Gauges of sagas: how many are open, which need somebody, what is late."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from eventbus.postgres.picking import COUNT_UP_TO
from eventbus.postgres.pools import Connection

# Of each type that was ever registered, each status along the index of what is open: one that has
# no saga is 0. What has ended may be millions, and is not counted.
_OPEN = f"""
SELECT d.saga_type, s.status, (
    SELECT count(*) FROM (
      SELECT 1 FROM {{schema}}.saga i
       WHERE i.saga_type = d.saga_type AND i.status = s.status AND i.finished_at IS NULL
       LIMIT {COUNT_UP_TO}) c) AS amount,
  (SELECT extract(epoch FROM statement_timestamp() - i.status_since) FROM {{schema}}.saga i
    WHERE i.saga_type = d.saga_type AND i.status = s.status AND i.finished_at IS NULL
    ORDER BY i.status_since LIMIT 1) AS oldest_seconds
  FROM (SELECT DISTINCT saga_type FROM {{schema}}.saga_definition) d,
       unnest(ARRAY['running', 'resolving', 'compensating', 'stuck']) s(status)"""
# The id leads by its index, whatever is thought of the table's length.
_STASHED = f"""
SELECT count(*) FROM (SELECT 1 FROM {{schema}}.saga_stash WHERE id > 0 LIMIT {COUNT_UP_TO}) c"""
# Those of paused sagas are due never; those of a version that no worker has are the latest.
_LATE = """
SELECT coalesce(max(extract(epoch FROM statement_timestamp() - t.due_at)), 0)
  FROM {schema}.saga_definition d CROSS JOIN LATERAL (
    SELECT x.due_at FROM {schema}.saga_timer x
     WHERE x.saga_type = d.saga_type AND x.def_version = d.version
       AND x.due_at <= statement_timestamp()
     ORDER BY x.due_at LIMIT 1) t"""


async def figures(connection: Connection, schema: str) -> dict[str, float]:
    """`saga_instances{transfer,running}` and so on."""
    found: dict[str, float] = {}
    stuck, unknown_seconds = 0, 0.0
    for row in await connection.fetch(_OPEN.format(schema=schema)):
        found[f"saga_instances{{{row['saga_type']},{row['status']}}}"] = float(row["amount"])
        if row["status"] == "stuck":
            stuck += row["amount"]
        if row["status"] == "resolving":
            unknown_seconds = max(unknown_seconds, float(row["oldest_seconds"] or 0))
    found["saga_stuck_instances"] = float(min(stuck, COUNT_UP_TO))
    found["saga_oldest_unknown_age_seconds"] = unknown_seconds
    for name, statement in (("saga_stashed_messages", _STASHED), ("timer_lag_seconds", _LATE)):
        found[name] = float(await connection.fetchval(statement.format(schema=schema)))
    return found
