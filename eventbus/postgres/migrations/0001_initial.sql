-- kind: expand
-- Everything stands in the schema {schema}; nothing relies on search_path. Text that takes part in
-- keys is COLLATE "C": both sides lock in one order, and no operating system update moves an index.

CREATE TABLE {schema}.store_info (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  incarnation uuid NOT NULL DEFAULT gen_random_uuid(),
  created_at timestamptz NOT NULL DEFAULT statement_timestamp());
INSERT INTO {schema}.store_info DEFAULT VALUES;

CREATE TABLE {schema}.leases (
  name text COLLATE "C" PRIMARY KEY, owner text, epoch bigint NOT NULL DEFAULT 0,
  until timestamptz NOT NULL DEFAULT '-infinity') WITH (fillfactor = 50);

CREATE TABLE {schema}.outbox (
  part smallint NOT NULL CHECK (part BETWEEN 0 AND 63),
  id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
  message_id text NOT NULL, type text NOT NULL, source text NOT NULL, topic text NOT NULL,
  key text COLLATE "C", headers bytea NOT NULL, payload bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  attempts int NOT NULL DEFAULT 0,
  due_at timestamptz, error text,        -- due_at: NULL now, future deferred, infinity failed
  PRIMARY KEY (part, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = false);
CREATE INDEX outbox_deferred ON {schema}.outbox (part, key, id) WHERE due_at IS NOT NULL;

CREATE TABLE {schema}.outbox_scheduled (
  part smallint NOT NULL, due_at timestamptz NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY,
  message_id text NOT NULL, type text NOT NULL, source text NOT NULL, topic text NOT NULL,
  key text COLLATE "C", headers bytea NOT NULL, payload bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  PRIMARY KEY (part, due_at, id));

CREATE TABLE {schema}.inbox (
  group_name text COLLATE "C" NOT NULL, message uuid NOT NULL, day date NOT NULL,
  seen date NOT NULL DEFAULT current_date,
  PRIMARY KEY (group_name, message, day)) PARTITION BY RANGE (day);
CREATE TABLE {schema}.inbox_undated PARTITION OF {schema}.inbox
  FOR VALUES FROM (MINVALUE) TO ('2000-01-01');
CREATE TABLE {schema}.inbox_other PARTITION OF {schema}.inbox DEFAULT;

CREATE TABLE {schema}.attempts (
  group_name text COLLATE "C" NOT NULL, message uuid NOT NULL, attempts int NOT NULL,
  at timestamptz NOT NULL, PRIMARY KEY (group_name, message));

CREATE TABLE {schema}.parked_keys (
  group_name text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
  state smallint NOT NULL DEFAULT 0,     -- 0 retrying, 1 dead
  due_at timestamptz NOT NULL, held_since timestamptz NOT NULL DEFAULT statement_timestamp(),
  PRIMARY KEY (group_name, key)) WITH (fillfactor = 70);
CREATE INDEX parked_due ON {schema}.parked_keys (group_name, due_at) WHERE state = 0;

CREATE TABLE {schema}.parked (
  group_name text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
  seq bigint GENERATED ALWAYS AS IDENTITY (CACHE 1), message uuid NOT NULL,
  message_id text NOT NULL, type text NOT NULL, source text NOT NULL, topic text NOT NULL,
  message_key text COLLATE "C", headers bytea, payload bytea,
  position bigint, origin text NOT NULL, attempts int NOT NULL DEFAULT 0,
  reason text, code text, error_type text, error text, fingerprint text,
  parked_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  PRIMARY KEY (group_name, key, seq), UNIQUE (group_name, message));

CREATE TABLE {schema}.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT statement_timestamp(), verb text NOT NULL,
  selection text NOT NULL, changed bigint NOT NULL, actor text NOT NULL, reason text NOT NULL);

CREATE TABLE {schema}.discarded (
  group_name text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, seq bigint NOT NULL,
  message uuid NOT NULL,
  message_id text NOT NULL, type text NOT NULL, source text NOT NULL, topic text NOT NULL,
  message_key text COLLATE "C", headers bytea, payload bytea,
  position bigint, origin text NOT NULL, attempts int NOT NULL,
  reason text, code text, error_type text, error text, fingerprint text,
  parked_at timestamptz NOT NULL,
  audit_id bigint NOT NULL, verb text NOT NULL CHECK (verb IN ('discard', 'edit')),
  discarded_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  PRIMARY KEY (group_name, message, audit_id));

CREATE TABLE {schema}.checkpoints (
  name text COLLATE "C" PRIMARY KEY, position bigint NOT NULL, fingerprint bytea NOT NULL,
  incarnation uuid NOT NULL, saved_at timestamptz NOT NULL DEFAULT statement_timestamp());

-- What is new of a batch, and which of its keys are held: one round trip. The keys are read in a
-- second statement, which sees what the first one waited for.
CREATE FUNCTION {schema}.receive(
  _group text, _messages uuid[], _days date[], _keys text[],
  OUT fresh uuid[], OUT held text[], OUT xid xid8) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  WITH ins AS (
    INSERT INTO {schema}.inbox (group_name, message, day)
    SELECT _group, m, d FROM unnest(_messages, _days) u(m, d) ORDER BY m
    ON CONFLICT DO NOTHING RETURNING message)
  SELECT array_agg(message) INTO fresh FROM ins;
  SELECT array_agg(k.key) INTO held
    FROM (SELECT key FROM {schema}.parked_keys
           WHERE group_name = _group AND key = ANY(_keys) ORDER BY key FOR KEY SHARE) k;
  xid := pg_current_xact_id();
END $$;

-- At the end of their keys' queues; false: the lease is stale, nothing was written.
CREATE FUNCTION {schema}.park(
  _group text, _lease text, _epoch bigint, _keys text[], _messages uuid[], _ids text[],
  _types text[], _sources text[], _topics text[], _message_keys text[], _headers bytea[],
  _payloads bytea[], _positions bigint[], _origins text[], _attempts int[], _reasons text[],
  _codes text[], _error_types text[], _errors text[], _fingerprints text[], _delays interval[])
  RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF _lease IS NOT NULL THEN              -- strict fence: nobody acquires until we commit
    PERFORM 1 FROM {schema}.leases WHERE name = _lease AND epoch = _epoch FOR SHARE;
    IF NOT FOUND THEN RETURN false; END IF;
  END IF;
  -- The first message of a key speaks for it, if it was tried; no delay: dead.
  -- Never DO NOTHING: the row must be locked, or it is freed before we commit.
  INSERT INTO {schema}.parked_keys AS k (group_name, key, state, due_at)
    SELECT DISTINCT ON (key COLLATE "C") _group, key,
           CASE WHEN d IS NULL AND re IS NOT NULL THEN 1 ELSE 0 END,
           CASE WHEN re IS NULL THEN '-infinity'
                ELSE statement_timestamp() + coalesce(d, '0') END
      FROM unnest(_keys, _delays, _reasons) WITH ORDINALITY u(key, d, re, o)
     ORDER BY key COLLATE "C", o
    ON CONFLICT (group_name, key) DO UPDATE SET
      due_at = CASE WHEN _lease IS NULL OR excluded.due_at = '-infinity' THEN k.due_at
                    ELSE excluded.due_at END,
      state = CASE WHEN _lease IS NULL OR excluded.due_at = '-infinity' THEN k.state
                   ELSE excluded.state END;
  INSERT INTO {schema}.parked AS p (
      group_name, key, message, message_id, type, source, topic, message_key, headers, payload,
      position, origin, attempts, reason, code, error_type, error, fingerprint)
    SELECT _group, k, m, i, t, s, tp, mk, h, pl, ps, og, a, re, c, et, e, f
      FROM (SELECT * FROM unnest(_keys, _messages, _ids, _types, _sources, _topics, _message_keys,
                   _headers, _payloads, _positions, _origins, _attempts, _reasons, _codes,
                   _error_types, _errors, _fingerprints)
            WITH ORDINALITY u(k, m, i, t, s, tp, mk, h, pl, ps, og, a, re, c, et, e, f, o)
            ORDER BY o) u
    ON CONFLICT (group_name, message) DO UPDATE SET
      attempts = greatest(p.attempts, excluded.attempts),
      reason = coalesce(excluded.reason, p.reason), code = coalesce(excluded.code, p.code),
      error_type = coalesce(excluded.error_type, p.error_type),
      error = coalesce(excluded.error, p.error),
      fingerprint = coalesce(excluded.fingerprint, p.fingerprint);
  RETURN true;
END $$;

-- The lock of a closing round: one second, then not now. In a block of its own, so that the
-- time-out of the lock costs the transaction nothing, and ends with the function.
CREATE FUNCTION {schema}.close_key(_group text, _key text) RETURNS boolean
  LANGUAGE plpgsql VOLATILE SET lock_timeout = '1s' AS $$
BEGIN
  PERFORM 1 FROM {schema}.parked_keys
    WHERE group_name = _group AND key = _key AND state = 0 FOR UPDATE;
  RETURN FOUND;
EXCEPTION WHEN lock_not_available THEN RETURN false;
END $$;

-- A day's partition of the inbox, built apart and attached; what stands in inbox_other stays there.
-- One at a time, under lock kind 4 (migrations).
CREATE FUNCTION {schema}.ensure_inbox_day(_day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE _name text := 'inbox_' || to_char(_day, 'YYYYMMDD');
BEGIN
  PERFORM pg_advisory_xact_lock(
    (73::bigint << 56) | (hashtextextended('{schema}.inbox', 0) & 17592186044415));
  -- this look locks a table, and so the next one sees what another made while we waited
  IF EXISTS (SELECT 1 FROM {schema}.inbox_other WHERE day = _day) THEN RETURN false; END IF;
  IF to_regclass(format('{schema}.%I', _name)) IS NOT NULL THEN RETURN false; END IF;
  EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.inbox INCLUDING DEFAULTS)', _name);
  EXECUTE format('ALTER TABLE {schema}.%I ADD PRIMARY KEY (group_name, message, day)', _name);
  EXECUTE format(
    'ALTER TABLE {schema}.inbox ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
    _name, _day, _day + 1);
  RETURN true;
EXCEPTION  -- a row of that day came into inbox_other; somebody made it by hand
  WHEN check_violation OR duplicate_table THEN RETURN false;
END $$;

SELECT {schema}.ensure_inbox_day(current_date + n) FROM generate_series(-1, 7) n;
