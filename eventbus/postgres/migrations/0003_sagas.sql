-- kind: expand
-- Sagas: what an engine keeps, and saga_effect, which is the participant's half. No foreign keys:
-- the transition is the only writer. No index, and no index's predicate, names a column that an
-- ordinary transition changes: so saga and saga_step are updated in place (heap-only).

CREATE TABLE {schema}.saga (
  saga_id uuid PRIMARY KEY,
  saga_type text COLLATE "C" NOT NULL, business_key text COLLATE "C" NOT NULL,
  def_version int NOT NULL, def_digest bytea NOT NULL,
  status text NOT NULL CHECK (status IN
    ('running', 'resolving', 'compensating', 'stuck', 'completed', 'compensated')),
  paused boolean NOT NULL DEFAULT false, intent text, state_name text,
  data bytea NOT NULL, data_version int NOT NULL, plan bytea, error bytea,
  version bigint NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  status_since timestamptz NOT NULL,     -- moves with status only
  finished_at timestamptz,
  CHECK ((finished_at IS NOT NULL) = (status IN ('completed', 'compensated')))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX saga_key ON {schema}.saga (saga_type, business_key);
CREATE INDEX saga_open ON {schema}.saga (saga_type, status, status_since)
  WHERE finished_at IS NULL;
CREATE INDEX saga_finished ON {schema}.saga (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE {schema}.saga_step (
  saga_id uuid, seq int, phase text COLLATE "C" CHECK (phase IN ('forward', 'undo')),
  name text NOT NULL, occurrence int NOT NULL, kind text NOT NULL, effect_id uuid NOT NULL,
  status text NOT NULL, attempt int NOT NULL,
  reply_type text, reply bytea, error bytea,
  started_at timestamptz NOT NULL, finished_at timestamptz,
  PRIMARY KEY (saga_id, seq, phase)) WITH (fillfactor = 70);

CREATE TABLE {schema}.saga_timer (
  saga_id uuid, name text COLLATE "C", saga_type text COLLATE "C" NOT NULL,
  def_version int NOT NULL, epoch bigint NOT NULL,
  due_at timestamptz NOT NULL,           -- infinity while paused, with the rest in remaining
  remaining interval,
  PRIMARY KEY (saga_id, name));
CREATE INDEX saga_timer_due ON {schema}.saga_timer (saga_type, def_version, due_at, saga_id);

CREATE TABLE {schema}.saga_call (
  effect_id uuid PRIMARY KEY, saga_type text COLLATE "C" NOT NULL, saga_id uuid NOT NULL,
  seq int NOT NULL, phase text NOT NULL, step text NOT NULL, input bytea NOT NULL,
  attempt int NOT NULL DEFAULT 0, def_version int NOT NULL,
  fence bigint NOT NULL DEFAULT 0, owner text,
  due_at timestamptz NOT NULL);          -- not before, then the end of the lease
CREATE INDEX saga_call_due ON {schema}.saga_call (saga_type, def_version, due_at);
CREATE INDEX saga_call_saga ON {schema}.saga_call (saga_id);

CREATE TABLE {schema}.saga_correlation (
  saga_type text COLLATE "C", name text COLLATE "C", value text COLLATE "C",
  saga_id uuid NOT NULL,
  PRIMARY KEY (saga_type, name, value));
CREATE INDEX saga_correlation_saga ON {schema}.saga_correlation (saga_id);

CREATE TABLE {schema}.saga_journal (
  saga_id uuid, version bigint, at timestamptz NOT NULL,
  input_kind text NOT NULL, input_id text, from_status text, to_status text NOT NULL,
  detail bytea NOT NULL, actor text, worker text NOT NULL,
  PRIMARY KEY (saga_id, version, at)) PARTITION BY RANGE (at);
CREATE TABLE {schema}.saga_journal_other PARTITION OF {schema}.saga_journal DEFAULT;

CREATE TABLE {schema}.saga_stash (
  id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
  saga_type text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL, message uuid NOT NULL,
  message_id text NOT NULL, type text NOT NULL, source text NOT NULL, topic text NOT NULL,
  message_key text COLLATE "C", headers bytea NOT NULL, payload bytea NOT NULL,
  ttl interval, expires_at timestamptz NOT NULL,
  UNIQUE (saga_type, name, value, message));
CREATE INDEX saga_stash_expires ON {schema}.saga_stash (expires_at);

CREATE TABLE {schema}.saga_definition (
  saga_type text COLLATE "C", version int, digest bytea NOT NULL, graph bytea NOT NULL,
  PRIMARY KEY (saga_type, version));

CREATE TABLE {schema}.saga_effect (
  effect_id uuid PRIMARY KEY, saga_id uuid, step text NOT NULL,
  state text NOT NULL CHECK (state IN
    ('executing', 'done', 'rejected', 'fenced', 'undone', 'unknown')),
  reply_type text, reply bytea, undo_reply_type text, undo_reply bytea,
  lease_until timestamptz, fence bigint NOT NULL DEFAULT 0, created_at timestamptz NOT NULL);
CREATE INDEX saga_effect_created ON {schema}.saga_effect (created_at);

-- A month's partition of the journal; what stands in saga_journal_other stays there. One at a time,
-- under lock kind 4 (migrations).
CREATE FUNCTION {schema}.ensure_journal_month(_month date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE _name text := 'saga_journal_' || to_char(_month, 'YYYYMM'); _next date;
BEGIN
  _month := date_trunc('month', _month)::date;
  _next := (_month + interval '1 month')::date;
  PERFORM pg_advisory_xact_lock(
    {schema}.lock_key(4, hashtextextended('{schema}.saga_journal', 0) & 17592186044415));
  -- this look locks a table, and so the next one sees what another made while we waited
  IF EXISTS (SELECT 1 FROM {schema}.saga_journal_other
              WHERE at >= _month::timestamp AT TIME ZONE 'UTC'
                AND at < _next::timestamp AT TIME ZONE 'UTC') THEN
    RETURN false;
  END IF;
  IF to_regclass(format('{schema}.%I', _name)) IS NOT NULL THEN RETURN false; END IF;
  EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.saga_journal)', _name);
  EXECUTE format('ALTER TABLE {schema}.%I ADD PRIMARY KEY (saga_id, version, at)', _name);
  EXECUTE format(
    'ALTER TABLE {schema}.saga_journal ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
    _name, _month::timestamp AT TIME ZONE 'UTC', _next::timestamp AT TIME ZONE 'UTC');
  RETURN true;
EXCEPTION  -- a row of that month came into saga_journal_other; somebody made it by hand
  WHEN check_violation OR duplicate_table THEN RETURN false;
END $$;

SELECT {schema}.ensure_journal_month(
         (statement_timestamp() AT TIME ZONE 'UTC' + n * interval '1 month')::date)
  FROM generate_series(0, 2) n;
