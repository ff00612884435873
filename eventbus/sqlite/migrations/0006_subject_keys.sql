-- kind: expand
-- One key per subject of personal data, wrapped by a master key that never comes here. A shredded
-- row stays: it is what keeps its subject forgotten.
CREATE TABLE eventbus_subject_keys (
  tenant TEXT NOT NULL, subject TEXT NOT NULL,
  key_id BLOB NOT NULL UNIQUE, wrapped_key BLOB,
  created_at INTEGER NOT NULL, shredded_at INTEGER,
  PRIMARY KEY (tenant, subject),
  CHECK ((wrapped_key IS NULL) = (shredded_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_subject_keys_shredded ON eventbus_subject_keys (tenant, subject)
  WHERE shredded_at IS NOT NULL;
