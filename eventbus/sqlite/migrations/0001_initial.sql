-- kind: expand
-- Times are unix milliseconds; -1 is "long ago", 9007199254740991 is "never" (rows.py).
-- Inserts name their times: eventbus_now() cannot stand in a column default under trusted_schema=OFF.
CREATE TABLE eventbus_store_info (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  incarnation TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
INSERT INTO eventbus_store_info (only_row, incarnation, created_at)
  VALUES (1, lower(hex(randomblob(16))), eventbus_now());

CREATE TABLE eventbus_leases (
  name TEXT NOT NULL PRIMARY KEY,
  owner TEXT NOT NULL DEFAULT '',
  epoch INTEGER NOT NULL DEFAULT 0,
  until INTEGER NOT NULL DEFAULT -1
) STRICT, WITHOUT ROWID;

CREATE TABLE eventbus_checkpoints (
  name TEXT NOT NULL PRIMARY KEY,
  position INTEGER NOT NULL,
  fingerprint BLOB NOT NULL,
  incarnation TEXT NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: without it a number comes again after the highest row was deleted.
CREATE TABLE eventbus_outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  part INTEGER NOT NULL CHECK (part BETWEEN 0 AND 63),
  message_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, topic TEXT NOT NULL,
  key TEXT, headers TEXT NOT NULL, payload BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER,
  error TEXT
) STRICT;
CREATE INDEX eventbus_outbox_deferred ON eventbus_outbox (key, id) WHERE due_at IS NOT NULL;

CREATE TABLE eventbus_outbox_scheduled (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  part INTEGER NOT NULL CHECK (part BETWEEN 0 AND 63),
  message_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, topic TEXT NOT NULL,
  key TEXT, headers TEXT NOT NULL, payload BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  due_at INTEGER NOT NULL
) STRICT;
CREATE INDEX eventbus_outbox_scheduled_due ON eventbus_outbox_scheduled (due_at, id);

CREATE TABLE eventbus_inbox (
  group_name TEXT NOT NULL, message TEXT NOT NULL, seen INTEGER NOT NULL,
  PRIMARY KEY (group_name, message)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_inbox_seen ON eventbus_inbox (seen);

CREATE TABLE eventbus_attempts (
  group_name TEXT NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY (group_name, message)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_attempts_at ON eventbus_attempts (at);

CREATE TABLE eventbus_parked_keys (
  group_name TEXT NOT NULL, key TEXT NOT NULL,
  state INTEGER NOT NULL DEFAULT 0 CHECK (state IN (0, 1)),
  due_at INTEGER NOT NULL, held_since INTEGER NOT NULL,
  PRIMARY KEY (group_name, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_parked_due ON eventbus_parked_keys (group_name, due_at) WHERE state = 0;

CREATE TABLE eventbus_parked (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  group_name TEXT NOT NULL, key TEXT NOT NULL, message TEXT NOT NULL,
  message_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, topic TEXT NOT NULL,
  message_key TEXT, headers TEXT NOT NULL, payload BLOB NOT NULL,
  position INTEGER, origin TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  reason TEXT, code TEXT, error_type TEXT, error TEXT, fingerprint TEXT,
  parked_at INTEGER NOT NULL,
  UNIQUE (group_name, message)
) STRICT;
CREATE INDEX eventbus_parked_queue ON eventbus_parked (group_name, key, seq);

CREATE TABLE eventbus_discarded (
  group_name TEXT NOT NULL, message TEXT NOT NULL, audit_id INTEGER NOT NULL,
  verb TEXT NOT NULL CHECK (verb IN ('discard', 'edit')),
  seq INTEGER NOT NULL, key TEXT NOT NULL,
  message_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, topic TEXT NOT NULL,
  message_key TEXT, headers TEXT NOT NULL, payload BLOB NOT NULL,
  position INTEGER, origin TEXT NOT NULL, attempts INTEGER NOT NULL,
  reason TEXT, code TEXT, error_type TEXT, error TEXT, fingerprint TEXT,
  parked_at INTEGER NOT NULL, discarded_at INTEGER NOT NULL,
  PRIMARY KEY (group_name, message, audit_id)
) STRICT;
CREATE INDEX eventbus_discarded_at ON eventbus_discarded (discarded_at);

CREATE TABLE eventbus_audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL, verb TEXT NOT NULL, selection TEXT NOT NULL, changed INTEGER NOT NULL,
  actor TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX eventbus_audit_at ON eventbus_audit (at);
