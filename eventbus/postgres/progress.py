"""How far a rebuild is: a row that each beat replaces."""

NOTE = """
INSERT INTO {schema}.progress AS p (name, phase, done, total, rows, rate, started_at, beat_at)
VALUES ($1, $2, $3, $4, $5, 0, statement_timestamp(), statement_timestamp())
ON CONFLICT (name) DO UPDATE SET
  rate = CASE WHEN p.phase <> excluded.phase OR excluded.done < p.done THEN 0
              WHEN excluded.beat_at > p.beat_at
              THEN (excluded.done - p.done) / extract(epoch FROM excluded.beat_at - p.beat_at)
              ELSE p.rate END,
  started_at = CASE WHEN p.phase = 'done' THEN excluded.started_at ELSE p.started_at END,
  phase = excluded.phase, done = excluded.done, total = excluded.total, rows = excluded.rows,
  beat_at = excluded.beat_at"""
STANDING = """
SELECT phase, done, total, rows, rate,
       extract(epoch FROM statement_timestamp() - started_at)::float8 AS running,
       extract(epoch FROM statement_timestamp() - beat_at)::float8 AS silent
  FROM {schema}.progress WHERE name = $1"""
