-- kind: expand
-- Versions of read models; their tables stand in the application's schema, under their own names.
-- The guard of a switch stands in the row that a worker waits for: with it elsewhere an UPDATE that
-- waited would use its old snapshot and succeed (storage.md 3).
ALTER TABLE {schema}.checkpoints ADD COLUMN state smallint NOT NULL DEFAULT 0 CHECK (state IN (0, 2));

CREATE TABLE {schema}.projections (
  name text COLLATE "C" NOT NULL, version int NOT NULL,
  status text NOT NULL CHECK (status IN ('building', 'following', 'active', 'retired')),
  table_schema text, table_name text,
  code_hash bytea NOT NULL, shards smallint NOT NULL, built_to bigint,
  publishes_after bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT statement_timestamp(), switched_at timestamptz,
  PRIMARY KEY (name, version));
CREATE UNIQUE INDEX projections_active ON {schema}.projections (name) WHERE status = 'active';

CREATE TABLE {schema}.progress (
  name text COLLATE "C" PRIMARY KEY, phase text NOT NULL,
  done bigint NOT NULL, total bigint NOT NULL, rows bigint NOT NULL, rate double precision NOT NULL,
  started_at timestamptz NOT NULL, beat_at timestamptz NOT NULL);
