"""How far a rebuild is: a row that each beat replaces."""

NOTE = """
INSERT INTO eventbus_progress AS p (name, phase, done, total, rows, rate, started_at, beat_at)
VALUES (?, ?, ?, ?, ?, 0, eventbus_now(), eventbus_now())
ON CONFLICT (name) DO UPDATE SET
  rate = CASE WHEN p.phase <> excluded.phase OR excluded.done < p.done THEN 0
              WHEN excluded.beat_at > p.beat_at
              THEN (excluded.done - p.done) * 1000.0 / (excluded.beat_at - p.beat_at)
              ELSE p.rate END,
  started_at = CASE WHEN p.phase = 'done' THEN excluded.started_at ELSE p.started_at END,
  phase = excluded.phase, done = excluded.done, total = excluded.total, rows = excluded.rows,
  beat_at = excluded.beat_at"""
STANDING = """
SELECT phase, done, total, rows, rate, (eventbus_now() - started_at) / 1000.0,
       (eventbus_now() - beat_at) / 1000.0
  FROM eventbus_progress WHERE name = ?"""
