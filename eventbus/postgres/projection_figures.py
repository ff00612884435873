"""Gauges of projections: how far they are behind, and how far a rebuild is."""

from eventbus.postgres.pools import Connection

# A checkpoint moves over what it does not want too, so the next event of any type is its lag.
_LAGS = """
SELECT s.name, greatest(0, b.bound - s.position) AS lag_events,
  coalesce((SELECT extract(epoch FROM clock_timestamp() - e.recorded_at)
              FROM {schema}.events e WHERE e.position > s.position AND e.position <= b.bound
             ORDER BY e.position LIMIT 1), 0) AS lag_seconds
  FROM {schema}.read_bound() b, (
    SELECT p.name, min(c.position) AS position FROM {schema}.projections p
      JOIN {schema}.checkpoints c ON starts_with(c.name, p.name || '@' || p.version || '/')
     WHERE p.status = 'active' AND p.runs = 'following' GROUP BY p.name) s"""
_REBUILDS = """
SELECT g.name, CASE g.phase WHEN 'plan' THEN 0
    WHEN 'replay' THEN least(1, g.done::float8 / greatest(g.total, 1)) ELSE 1 END AS ratio
  FROM {schema}.progress g WHERE EXISTS (
    SELECT 1 FROM {schema}.projections p WHERE p.name = g.name AND p.status = 'building')"""


async def figures(connection: Connection, schema: str) -> dict[str, float]:
    """`projection_lag_events{orders}` and so on."""
    found: dict[str, float] = {}
    for row in await connection.fetch(_LAGS.format(schema=schema)):
        for name in ("lag_events", "lag_seconds"):
            found[f"projection_{name}{{{row['name']}}}"] = float(row[name])
    for row in await connection.fetch(_REBUILDS.format(schema=schema)):
        found[f"projection_rebuild_progress_ratio{{{row['name']}}}"] = float(row["ratio"])
    return found
