-- kind: expand
-- The event log: streams, whose head rows decide expected versions, and one feed. One writer: the
-- order of positions is the order of commits, and nothing appears behind a reader.
CREATE TABLE eventbus_streams (
  stream_id INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL,
  kept_from INTEGER NOT NULL DEFAULT 1,
  state INTEGER NOT NULL DEFAULT 0     -- 0 active, 1 archived, 2 tombstoned
) STRICT;
CREATE UNIQUE INDEX eventbus_streams_name ON eventbus_streams (tenant, name);
CREATE INDEX eventbus_streams_cut ON eventbus_streams (stream_id)
  WHERE state = 2 OR kept_from > 1;

-- AUTOINCREMENT: a position never comes again, not after the highest was deleted either.
CREATE TABLE eventbus_events (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  stream_id INTEGER NOT NULL, version INTEGER NOT NULL, recorded_at INTEGER NOT NULL,
  identity TEXT NOT NULL, schema_version INTEGER NOT NULL,
  tenant TEXT NOT NULL, stream TEXT NOT NULL,
  message_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, topic TEXT NOT NULL,
  key TEXT, headers TEXT NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX eventbus_events_stream ON eventbus_events (stream_id, version);
CREATE INDEX eventbus_events_type ON eventbus_events (type, position);

CREATE TABLE eventbus_snapshots (
  stream_id INTEGER NOT NULL, kind TEXT NOT NULL, schema_hash BLOB NOT NULL,
  version INTEGER NOT NULL, position INTEGER NOT NULL, state BLOB NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY (stream_id, kind)
) STRICT, WITHOUT ROWID;
