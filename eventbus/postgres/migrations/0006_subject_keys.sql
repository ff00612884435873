-- kind: expand
-- One key per subject of personal data, wrapped by a master key that never comes here. A shredded
-- row stays: it is what keeps its subject forgotten. What the key opened stands in id alone.
CREATE TABLE {schema}.subject_keys (
  tenant text COLLATE "C" NOT NULL, subject text COLLATE "C" NOT NULL,
  key_id uuid NOT NULL UNIQUE, wrapped_key bytea,
  created_at timestamptz NOT NULL DEFAULT statement_timestamp(), shredded_at timestamptz,
  PRIMARY KEY (tenant, subject),
  CHECK ((wrapped_key IS NULL) = (shredded_at IS NOT NULL)));
CREATE INDEX subject_keys_shredded ON {schema}.subject_keys (tenant, subject)
  WHERE shredded_at IS NOT NULL;
