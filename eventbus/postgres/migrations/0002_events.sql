-- kind: expand
-- The event log: streams, whose head rows decide expected versions, and one feed in an order that
-- stays. A position that is drawn is announced before by a lock: `read_bound` reads up to the lowest.

ALTER TABLE {schema}.store_info ADD COLUMN store_no smallint CHECK (store_no BETWEEN 0 AND 4095);

-- The number that keeps the locks of two stores of one database apart: the lowest that is free,
-- under a lock of the database. Stores that this role cannot read count as free.
DO $do$
DECLARE _schema name; _other smallint; _used smallint[] := '{}'; _free smallint;
BEGIN
  PERFORM pg_advisory_xact_lock((73::bigint << 56) | (4095::bigint << 44));
  FOR _schema IN
    SELECT n.nspname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relname = 'store_info' AND c.relkind = 'r' AND a.attname = 'store_no'
       AND NOT a.attisdropped AND has_schema_privilege(n.oid, 'USAGE')
       AND has_table_privilege(c.oid, 'SELECT')
  LOOP
    EXECUTE format('SELECT store_no FROM %I.store_info', _schema) INTO _other;
    _used := _used || _other;
  END LOOP;
  SELECT min(g) INTO _free FROM generate_series(0, 4095) g WHERE g <> ALL (array_remove(_used, NULL));
  IF _free IS NULL THEN
    RAISE EXCEPTION 'there are 4096 stores in this database already';
  END IF;
  UPDATE {schema}.store_info SET store_no = _free;
  -- kinds: 0 appends in flight, 1 free, 2 inline projections, 3 business keys of sagas, 4 migrations
  EXECUTE format(
    'CREATE FUNCTION {schema}.lock_key(_kind int, _value bigint) RETURNS bigint
       LANGUAGE sql IMMUTABLE AS $$
       SELECT ((69::bigint + _kind) << 56) | (%s::bigint << 44) | _value $$', _free);
END $do$;
ALTER TABLE {schema}.store_info ALTER COLUMN store_no SET NOT NULL;

CREATE SEQUENCE {schema}.position_seq AS bigint CACHE 1;
SELECT setval('{schema}.position_seq', 1, true);  -- a reader could stand at 1 before event 1

CREATE TABLE {schema}.streams (
  stream_id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  version bigint NOT NULL,
  floor_pos bigint NOT NULL,             -- every event of the stream lies above
  kept_from bigint NOT NULL DEFAULT 1,
  state smallint NOT NULL DEFAULT 0,     -- 0 active, 1 archived, 2 tombstoned
  tenant text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
  category text COLLATE "C" NOT NULL, PRIMARY KEY (tenant, name)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX streams_cut ON {schema}.streams (stream_id) WHERE state = 2 OR kept_from > 1;

CREATE TABLE {schema}.events (
  position bigint NOT NULL, stream_id bigint NOT NULL, version bigint NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  event_id uuid NOT NULL, correlation_id uuid, causation_id uuid,
  schema_version smallint NOT NULL, codec smallint NOT NULL DEFAULT 0,
  type text COLLATE "C" NOT NULL, tenant text COLLATE "C" NOT NULL,
  stream text COLLATE "C" NOT NULL, data bytea NOT NULL, meta bytea NOT NULL,
  PRIMARY KEY (position)) PARTITION BY RANGE (position);
CREATE INDEX events_type ON {schema}.events (type, position);
CREATE TABLE {schema}.events_0 PARTITION OF {schema}.events
  FOR VALUES FROM (MINVALUE) TO (50000000);
CREATE UNIQUE INDEX events_0_stream ON {schema}.events_0 (stream_id, version);
-- Rows for which no partition was made ahead; as long as one stands here, none can be made.
CREATE TABLE {schema}.events_other PARTITION OF {schema}.events DEFAULT;  -- nothing is refused
CREATE UNIQUE INDEX events_other_stream ON {schema}.events_other (stream_id, version);

CREATE TABLE {schema}.snapshots (
  stream_id bigint, kind text COLLATE "C", schema_hash bytea NOT NULL, version bigint NOT NULL,
  position bigint NOT NULL, codec smallint NOT NULL DEFAULT 0, data bytea NOT NULL,
  at timestamptz NOT NULL DEFAULT statement_timestamp(), PRIMARY KEY (stream_id, kind));

-- The next partition, once less than 10,000,000 positions are left; built apart, so that appends
-- wait for nothing but the moment in which it is attached.
CREATE FUNCTION {schema}.ensure_events_ahead() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE _next bigint; _name text; _width bigint := 50000000;
BEGIN
  PERFORM pg_advisory_xact_lock({schema}.lock_key(4, 0));
  SELECT 1 + max(substr(c.relname, 8)::bigint) INTO _next
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = '{schema}.events'::regclass AND c.relname ~ '^events_[0-9]+$';
  IF (SELECT last_value FROM {schema}.position_seq) < _next * _width - 10000000
     OR EXISTS (SELECT 1 FROM {schema}.events_other) THEN
    RETURN false;
  END IF;
  _name := 'events_' || _next;
  EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.events INCLUDING DEFAULTS INCLUDING INDEXES,'
                 ' CHECK (position >= %s AND position < %s))'
                 ' WITH (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_scale_factor = 0.05)',
                 _name, _next * _width, (_next + 1) * _width);
  EXECUTE format('CREATE UNIQUE INDEX %I ON {schema}.%I (stream_id, version)', _name || '_stream', _name);
  EXECUTE format('ALTER TABLE {schema}.events ATTACH PARTITION {schema}.%I FOR VALUES FROM (%s) TO (%s)',
                 _name, _next * _width, (_next + 1) * _width);
  EXECUTE format('ALTER TABLE {schema}.%I DROP CONSTRAINT %I', _name, _name || '_position_check');
  RETURN true;
END $$;

-- Before the first position of a transaction is drawn, once per transaction: the key is a lower
-- bound of all its positions. A savepoint that is rolled back takes lock and setting with it.
CREATE FUNCTION {schema}.enter_append() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF current_setting('eventbus.entered_{schema}', true)
     IS DISTINCT FROM pg_current_xact_id()::text THEN
    PERFORM pg_advisory_xact_lock_shared(
      {schema}.lock_key(0, (SELECT last_value FROM {schema}.position_seq)));
    PERFORM set_config('eventbus.entered_{schema}', pg_current_xact_id()::text, true);
  END IF;
END $$;

-- First the head, then the lowest append in flight; events are read in a LATER statement.
CREATE FUNCTION {schema}.read_bound(OUT bound bigint, OUT head bigint, OUT server_started timestamptz)
  LANGUAGE plpgsql VOLATILE AS $$
DECLARE _lowest bigint; _from bigint := {schema}.lock_key(0, 0);
BEGIN
  SELECT last_value INTO head FROM {schema}.position_seq;
  SELECT min(k - _from) INTO _lowest
    FROM (SELECT (classid::bigint << 32) | objid::bigint AS k FROM pg_locks
           WHERE locktype = 'advisory' AND granted AND objsubid = 1
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) l
   WHERE k >= _from AND k < _from + (1::bigint << 44);
  bound := least(head, coalesce(_lowest, head));
  server_started := pg_postmaster_start_time();
END $$;

-- The head row decides: ok, conflict, closed, or repeated if the same ids stand there already.
-- _expected: >= 0 exact, -1 absent, -2 any, -3 present. Verdicts are rows, never exceptions: the
-- transaction lives on. Losers are decided before any position is drawn.
CREATE FUNCTION {schema}.decide_append(
  _tenant text, _name text, _category text, _expected bigint, _ids uuid[], _floor bigint,
  OUT status text, OUT head bigint, OUT version bigint, OUT last_position bigint)
  LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE _n int := cardinality(_ids); _v bigint; _state smallint; _low bigint; _after bigint; _seen uuid[];
BEGIN
  IF _expected IN (-1, 0) THEN
    INSERT INTO {schema}.streams (tenant, name, category, version, floor_pos)
      VALUES (_tenant, _name, _category, _n, _floor)
      ON CONFLICT (tenant, name) DO NOTHING RETURNING stream_id, version INTO head, _v;
  ELSIF _expected = -2 THEN
    INSERT INTO {schema}.streams AS t (tenant, name, category, version, floor_pos)
      VALUES (_tenant, _name, _category, _n, _floor)
      ON CONFLICT (tenant, name) DO UPDATE SET version = t.version + _n WHERE t.state = 0
      RETURNING t.stream_id, t.version INTO head, _v;
  ELSE
    UPDATE {schema}.streams t SET version = t.version + _n
     WHERE t.tenant = _tenant AND t.name = _name AND t.state = 0
       AND (_expected = -3 OR t.version = _expected)
     RETURNING t.stream_id, t.version INTO head, _v;
  END IF;
  status := 'ok'; version := _v;
  IF head IS NULL THEN
    SELECT t.stream_id, t.version, t.state INTO head, _v, _state
      FROM {schema}.streams t WHERE t.tenant = _tenant AND t.name = _name;
    version := coalesce(_v, 0);
    status := CASE WHEN _state > 0 THEN 'closed' ELSE 'conflict' END;
    IF _state = 0 AND _expected >= -1 THEN  -- the same ids stand there: a retry
      SELECT array_agg(e.event_id ORDER BY e.version), max(e.position) INTO _seen, last_position
        FROM {schema}.events e WHERE e.stream_id = head
         AND e.version > greatest(_expected, 0) AND e.version <= greatest(_expected, 0) + _n;
      IF _seen = _ids THEN
        status := 'repeated'; version := greatest(_expected, 0) + _n;
      ELSE
        last_position := NULL;
      END IF;
    END IF;
  ELSIF _expected < -1 AND _v > _n THEN  -- whoever wrote them first has ended: we hold the head
    SELECT t.floor_pos INTO _low FROM {schema}.streams t WHERE t.stream_id = head;
    SELECT e.version - 1 INTO _after FROM {schema}.events e
     WHERE e.stream_id = head AND e.position > _low AND e.version > _v - _n - 1000
       AND e.version <= _v - _n AND e.event_id = _ids[1]
     ORDER BY e.version DESC LIMIT 1;
    IF _after IS NOT NULL THEN
      SELECT array_agg(e.event_id ORDER BY e.version), max(e.position) INTO _seen, last_position
        FROM {schema}.events e WHERE e.stream_id = head
         AND e.version > _after AND e.version <= _after + _n;
      IF _seen = _ids THEN
        UPDATE {schema}.streams t SET version = t.version - _n WHERE t.stream_id = head;
        status := 'repeated'; version := _after + _n;
      ELSE
        last_position := NULL;
      END IF;
    END IF;
  END IF;
END $$;

CREATE FUNCTION {schema}.append(
  _tenant text, _name text, _category text, _expected bigint, _types text[], _ids uuid[],
  _datas bytea[], _metas bytea[], _schemas smallint[], _correlations uuid[], _causations uuid[],
  OUT status text, OUT version bigint, OUT last_position bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE _n int := cardinality(_types); _stream bigint;
BEGIN
  SELECT d.status, d.head, d.version, d.last_position
    INTO status, _stream, version, last_position
    FROM {schema}.decide_append(_tenant, _name, _category, _expected, _ids,
                                (SELECT last_value FROM {schema}.position_seq)) d;
  IF status <> 'ok' THEN
    RETURN;
  END IF;
  PERFORM {schema}.enter_append();
  WITH ins AS (
    INSERT INTO {schema}.events (position, stream_id, version, event_id, correlation_id,
                                 causation_id, schema_version, type, tenant, stream, data, meta)
    SELECT nextval('{schema}.position_seq'), _stream, version - _n + u.o, u.i, u.cr, u.cs, u.s, u.t,
           _tenant, _name, u.d, u.m
      FROM (SELECT * FROM unnest(_types, _ids, _datas, _metas, _schemas, _correlations, _causations)
            WITH ORDINALITY x(t, i, d, m, s, cr, cs, o) ORDER BY o) u
    RETURNING position)
  SELECT max(position) INTO last_position FROM ins;
END $$;

-- Appends of different streams in one commit, a verdict each; outbox rows of the winners, last.
-- Heads are locked in the order of their names, which is the same for all callers.
CREATE FUNCTION {schema}.append_many(
  _tenants text[], _names text[], _categories text[], _expected bigint[], _counts int[],
  _requests int[], _numbers int[], _types text[], _ids uuid[], _datas bytea[], _metas bytea[],
  _schemas smallint[], _correlations uuid[], _causations uuid[],
  _o_request int[], _o_place int[], _o_part smallint[], _o_id text[], _o_type text[], _o_source text[],
  _o_topic text[], _o_key text[], _o_headers bytea[], _o_payload bytea[])
  RETURNS TABLE (status text, version bigint, last_position bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  _n int := cardinality(_names); _k int; _from int; _one record; _won boolean := false;
  _floor bigint := (SELECT last_value FROM {schema}.position_seq);
  _blank bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _status text[] := array_fill(NULL::text, ARRAY[_n]);
  _streams bigint[] := _blank; _versions bigint[] := _blank; _lasts bigint[] := _blank;
BEGIN
  FOR _k, _from IN
    SELECT o, e - n FROM (
      SELECT o::int, n, sum(n) OVER (ORDER BY o) AS e, t, s
        FROM unnest(_tenants, _names, _counts) WITH ORDINALITY q(t, s, n, o)) q
     ORDER BY t COLLATE "C", s COLLATE "C"
  LOOP
    SELECT * INTO _one FROM {schema}.decide_append(
      _tenants[_k], _names[_k], _categories[_k], _expected[_k],
      _ids[_from + 1 : _from + _counts[_k]], _floor);
    _status[_k] := _one.status; _streams[_k] := _one.head; _versions[_k] := _one.version;
    _lasts[_k] := _one.last_position; _won := _won OR _one.status = 'ok';
  END LOOP;
  IF NOT _won THEN
    RETURN QUERY SELECT _status[g], _versions[g], _lasts[g] FROM generate_series(1, _n) g;
    RETURN;
  END IF;
  PERFORM {schema}.enter_append();
  RETURN QUERY WITH ins AS (
    INSERT INTO {schema}.events (position, stream_id, version, event_id, correlation_id,
                                 causation_id, schema_version, type, tenant, stream, data, meta)
    SELECT nextval('{schema}.position_seq'), _streams[e.r], _versions[e.r] - _counts[e.r] + e.n,
           e.i, e.cr, e.cs, e.sv, e.ty, _tenants[e.r], _names[e.r], e.d, e.m
      FROM (SELECT * FROM unnest(_requests, _numbers, _types, _ids, _datas, _metas, _schemas,
                                 _correlations, _causations)
              WITH ORDINALITY x(r, n, ty, i, d, m, sv, cr, cs, o)
             WHERE _status[r] = 'ok' ORDER BY o) e
    RETURNING stream_id, position),
    last AS (SELECT stream_id, max(position) AS position FROM ins GROUP BY stream_id)
  SELECT _status[g], _versions[g], coalesce(last.position, _lasts[g])
    FROM generate_series(1, _n) g LEFT JOIN last ON last.stream_id = _streams[g] ORDER BY g;
  INSERT INTO {schema}.outbox (part, message_id, type, source, topic, key, headers, payload)
  SELECT pt, mi, ty, so, tp, ky, CASE WHEN c = 0 THEN hd ELSE  -- its version, as the last header
           substr(hd, 1, length(hd) - 1) || convert_to(
             ',"sequence":"' || lpad((_versions[r] - _counts[r] + c)::text, 20, '0') || '"}', 'UTF8')
         END, pl
    FROM (SELECT * FROM unnest(_o_request, _o_place, _o_part, _o_id, _o_type, _o_source, _o_topic, _o_key,
                               _o_headers, _o_payload)
            WITH ORDINALITY x(r, c, pt, mi, ty, so, tp, ky, hd, pl, o)
           WHERE _status[r] = 'ok' ORDER BY o) u;
END $$;

-- The head, then the snapshot (type NULL), then the tail.
CREATE FUNCTION {schema}.load(_tenant text, _name text, _kind text, _hash bytea)
  RETURNS TABLE (
    "position" bigint, version bigint, type text, event_id uuid, recorded_at timestamptz,
    schema_version smallint, stream text, data bytea, meta bytea)
  LANGUAGE plpgsql STABLE SET plan_cache_mode = 'force_generic_plan' AS $$
#variable_conflict use_column
DECLARE _head {schema}.streams; _kept {schema}.snapshots;
BEGIN
  SELECT * INTO _head FROM {schema}.streams t
   WHERE t.tenant = _tenant AND t.name = _name AND t.state < 2;
  IF NOT FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT NULL::bigint, _head.version, NULL::text, NULL::uuid, NULL::timestamptz,
                      NULL::smallint, NULL::text, NULL::bytea, NULL::bytea;
  SELECT * INTO _kept FROM {schema}.snapshots n
   WHERE n.stream_id = _head.stream_id AND n.kind = _kind AND n.schema_hash = _hash
     AND n.version <= _head.version AND n.version >= _head.kept_from - 1;
  IF FOUND THEN
    RETURN QUERY SELECT _kept.position, _kept.version, NULL::text, NULL::uuid, _kept.at,
                        NULL::smallint, NULL::text, _kept.data, NULL::bytea;
  END IF;
  RETURN QUERY
    SELECT e.position, e.version, e.type, e.event_id, e.recorded_at, e.schema_version, e.stream,
           e.data, e.meta
      FROM {schema}.events e
     WHERE e.stream_id = _head.stream_id
       AND e.position > greatest(_head.floor_pos, _kept.position)
       AND e.version > greatest(_head.kept_from - 1, _kept.version)
     ORDER BY e.version;
END $$;
