-- kind: expand
-- Sagas: what an engine keeps, and eventbus_saga_effect, which is the participant's half.
-- Ids are UUIDs as text; no foreign keys: the transition is the only writer.
CREATE TABLE eventbus_saga (
  saga_id TEXT NOT NULL PRIMARY KEY, saga_type TEXT NOT NULL, business_key TEXT NOT NULL,
  def_version INTEGER NOT NULL, def_digest BLOB NOT NULL,
  status TEXT NOT NULL CHECK (status IN
    ('running', 'resolving', 'compensating', 'stuck', 'completed', 'compensated')),
  paused INTEGER NOT NULL DEFAULT 0, intent TEXT, state_name TEXT,
  data BLOB NOT NULL, data_version INTEGER NOT NULL, plan BLOB, error BLOB,
  version INTEGER NOT NULL,
  created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, status_since INTEGER NOT NULL,
  finished_at INTEGER,
  CHECK ((finished_at IS NOT NULL) = (status IN ('completed', 'compensated')))
) STRICT;
CREATE UNIQUE INDEX eventbus_saga_key ON eventbus_saga (saga_type, business_key);
CREATE INDEX eventbus_saga_open ON eventbus_saga (saga_type, status, status_since)
  WHERE finished_at IS NULL;
CREATE INDEX eventbus_saga_finished ON eventbus_saga (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE eventbus_saga_step (
  saga_id TEXT NOT NULL, seq INTEGER NOT NULL,
  phase TEXT NOT NULL CHECK (phase IN ('forward', 'undo')),
  name TEXT NOT NULL, occurrence INTEGER NOT NULL, kind TEXT NOT NULL, effect_id TEXT NOT NULL,
  status TEXT NOT NULL, attempt INTEGER NOT NULL,
  reply_type TEXT, reply BLOB, error BLOB,
  started_at INTEGER NOT NULL, finished_at INTEGER,
  PRIMARY KEY (saga_id, seq, phase)
) STRICT, WITHOUT ROWID;

CREATE TABLE eventbus_saga_timer (
  saga_id TEXT NOT NULL, name TEXT NOT NULL, saga_type TEXT NOT NULL,
  def_version INTEGER NOT NULL, epoch INTEGER NOT NULL,
  due_at INTEGER NOT NULL, remaining INTEGER,
  PRIMARY KEY (saga_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_saga_timer_due
  ON eventbus_saga_timer (saga_type, def_version, due_at, saga_id);

CREATE TABLE eventbus_saga_call (
  effect_id TEXT NOT NULL PRIMARY KEY, saga_type TEXT NOT NULL, saga_id TEXT NOT NULL,
  seq INTEGER NOT NULL, phase TEXT NOT NULL, step TEXT NOT NULL, input BLOB NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0, def_version INTEGER NOT NULL,
  fence INTEGER NOT NULL DEFAULT 0, owner TEXT, due_at INTEGER NOT NULL
) STRICT;
CREATE INDEX eventbus_saga_call_due ON eventbus_saga_call (saga_type, def_version, due_at);
CREATE INDEX eventbus_saga_call_saga ON eventbus_saga_call (saga_id);

CREATE TABLE eventbus_saga_correlation (
  saga_type TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, saga_id TEXT NOT NULL,
  PRIMARY KEY (saga_type, name, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_saga_correlation_saga ON eventbus_saga_correlation (saga_id);

CREATE TABLE eventbus_saga_journal (
  saga_id TEXT NOT NULL, version INTEGER NOT NULL, at INTEGER NOT NULL,
  input_kind TEXT NOT NULL, input_id TEXT, from_status TEXT, to_status TEXT NOT NULL,
  detail BLOB NOT NULL, actor TEXT, worker TEXT NOT NULL,
  PRIMARY KEY (saga_id, version)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: what came later has the higher number, though all before it was drained.
CREATE TABLE eventbus_saga_stash (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  saga_type TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, identity TEXT NOT NULL,
  message_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, topic TEXT NOT NULL,
  key TEXT, headers TEXT NOT NULL, payload BLOB NOT NULL,
  ttl INTEGER, expires_at INTEGER NOT NULL,
  UNIQUE (saga_type, name, value, identity)
) STRICT;
CREATE INDEX eventbus_saga_stash_expires ON eventbus_saga_stash (expires_at);

CREATE TABLE eventbus_saga_definition (
  saga_type TEXT NOT NULL, version INTEGER NOT NULL, digest BLOB NOT NULL, graph BLOB NOT NULL,
  PRIMARY KEY (saga_type, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE eventbus_saga_effect (
  effect_id TEXT NOT NULL PRIMARY KEY, saga_id TEXT, step TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN
    ('executing', 'done', 'rejected', 'fenced', 'undone', 'unknown')),
  reply_type TEXT, reply BLOB, undo_reply_type TEXT, undo_reply BLOB,
  lease_until INTEGER, fence INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX eventbus_saga_effect_created ON eventbus_saga_effect (created_at);
