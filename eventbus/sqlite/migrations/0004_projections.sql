-- kind: expand
-- Versions of read models; their tables stand beside the application's, under their own names.
ALTER TABLE eventbus_checkpoints ADD COLUMN state INTEGER NOT NULL DEFAULT 0 CHECK (state IN (0, 2));

CREATE TABLE eventbus_projections (
  name TEXT NOT NULL, version INTEGER NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('building', 'following', 'active', 'retired')),
  table_name TEXT,
  code_hash BLOB NOT NULL, shards INTEGER NOT NULL, built_to INTEGER,
  publishes_after INTEGER NOT NULL,
  created_at INTEGER NOT NULL, switched_at INTEGER,
  PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX eventbus_projections_active ON eventbus_projections (name)
  WHERE status = 'active';

CREATE TABLE eventbus_progress (
  name TEXT NOT NULL PRIMARY KEY, phase TEXT NOT NULL,
  done INTEGER NOT NULL, total INTEGER NOT NULL, rows INTEGER NOT NULL, rate REAL NOT NULL,
  started_at INTEGER NOT NULL, beat_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
