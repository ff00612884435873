-- kind: expand
-- One-shot appends with less work on the server: a function for one event, whose arguments are no
-- arrays, and heads that are decided in the loop itself; decide_append is asked only about what
-- these two do not write. Measured: docs/decisions.

-- One event, and at most one message that goes out with it (_o_part NULL: none). For a statement
-- that is its own transaction: within a longer one each call would take one more lock.
CREATE FUNCTION {schema}.append_event(
  _tenant text, _name text, _category text, _expected bigint, _type text, _id uuid, _data bytea,
  _meta bytea, _schema smallint, _correlation uuid, _causation uuid,
  _o_place int, _o_part smallint, _o_id text, _o_type text, _o_source text, _o_topic text,
  _o_key text, _o_headers bytea, _o_payload bytea,
  OUT status text, OUT version bigint, OUT last_position bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE _stream bigint;
BEGIN
  IF _expected = -1 OR _expected = 0 THEN
    INSERT INTO {schema}.streams (tenant, name, category, version, floor_pos)
      VALUES (_tenant, _name, _category, 1, (SELECT last_value FROM {schema}.position_seq))
      ON CONFLICT (tenant, name) DO NOTHING RETURNING stream_id, version INTO _stream, version;
  ELSIF _expected > 0 THEN
    UPDATE {schema}.streams t SET version = t.version + 1
     WHERE t.tenant = _tenant AND t.name = _name AND t.state = 0 AND t.version = _expected
     RETURNING t.stream_id, t.version INTO _stream, version;
  END IF;
  status := 'ok';
  IF _stream IS NULL THEN
    SELECT d.status, d.head, d.version, d.last_position INTO status, _stream, version, last_position
      FROM {schema}.decide_append(_tenant, _name, _category, _expected, ARRAY[_id],
                                  (SELECT last_value FROM {schema}.position_seq)) d;
    IF status <> 'ok' THEN
      RETURN;
    END IF;
  END IF;
  -- announced before the position is drawn (enter_append, which a single append need not remember)
  PERFORM pg_advisory_xact_lock_shared(
    {schema}.lock_key(0, (SELECT last_value FROM {schema}.position_seq)));
  INSERT INTO {schema}.events (position, stream_id, version, event_id, correlation_id, causation_id,
                               schema_version, type, tenant, stream, data, meta)
    VALUES (nextval('{schema}.position_seq'), _stream, version, _id, _correlation, _causation,
            _schema, _type, _tenant, _name, _data, _meta)
    RETURNING position INTO last_position;
  IF _o_part IS NOT NULL THEN
    INSERT INTO {schema}.outbox (part, message_id, type, source, topic, key, headers, payload)
      VALUES (_o_part, _o_id, _o_type, _o_source, _o_topic, _o_key,
              CASE WHEN _o_place = 0 THEN _o_headers ELSE  -- its version, as the last header
                substr(_o_headers, 1, length(_o_headers) - 1) || convert_to(
                  ',"sequence":"' || lpad(version::text, 20, '0') || '"}', 'UTF8')
              END, _o_payload);
  END IF;
END $$;

-- As before (0002). Versions may be left out if all are 1, references if there are none: unnest
-- fills up with NULL.
CREATE OR REPLACE FUNCTION {schema}.append(
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
    SELECT nextval('{schema}.position_seq'), _stream, version - _n + u.o, u.i, u.cr, u.cs,
           coalesce(u.s, 1), u.t, _tenant, _name, u.d, u.m
      FROM (SELECT * FROM unnest(_types, _ids, _datas, _metas, _schemas, _correlations, _causations)
            WITH ORDINALITY x(t, i, d, m, s, cr, cs, o) ORDER BY o) u
    RETURNING position)
  SELECT max(position) INTO last_position FROM ins;
END $$;

-- As before (0002), with the heads of most requests decided here. Whose each event is may be left
-- out as well: they stand in the order of the requests.
CREATE OR REPLACE FUNCTION {schema}.append_many(
  _tenants text[], _names text[], _categories text[], _expected bigint[], _counts int[],
  _requests int[], _numbers int[], _types text[], _ids uuid[], _datas bytea[], _metas bytea[],
  _schemas smallint[], _correlations uuid[], _causations uuid[],
  _o_request int[], _o_place int[], _o_part smallint[], _o_id text[], _o_type text[], _o_source text[],
  _o_topic text[], _o_key text[], _o_headers bytea[], _o_payload bytea[])
  RETURNS TABLE (status text, version bigint, last_position bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  _n int := cardinality(_names); _k int; _from int; _count int; _asked bigint;
  _tenant text; _name text; _category text; _stream bigint; _v bigint; _one record;
  _won boolean := false; _floor bigint := (SELECT last_value FROM {schema}.position_seq);
  _blank bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _status text[] := array_fill('ok'::text, ARRAY[_n]);
  _streams bigint[] := _blank; _versions bigint[] := _blank; _lasts bigint[] := _blank;
BEGIN
  IF cardinality(_requests) = 0 THEN
    SELECT array_agg(r ORDER BY r, g), array_agg(g ORDER BY r, g) INTO _requests, _numbers
      FROM unnest(_counts) WITH ORDINALITY c(n, r), generate_series(1, c.n) g;
  END IF;
  FOR _k, _from, _count, _tenant, _name, _category, _asked IN
    SELECT o, e - n, n, t, s, c, x FROM (
      SELECT o::int, n, sum(n) OVER (ORDER BY o) AS e, t, s, c, x
        FROM unnest(_tenants, _names, _categories, _expected, _counts)
        WITH ORDINALITY q(t, s, c, x, n, o)) q
     ORDER BY t COLLATE "C", s COLLATE "C"
  LOOP
    _stream := NULL;
    IF _asked = -1 OR _asked = 0 THEN
      INSERT INTO {schema}.streams (tenant, name, category, version, floor_pos)
        VALUES (_tenant, _name, _category, _count, _floor)
        ON CONFLICT (tenant, name) DO NOTHING RETURNING stream_id, version INTO _stream, _v;
    ELSIF _asked > 0 THEN
      UPDATE {schema}.streams t SET version = t.version + _count
       WHERE t.tenant = _tenant AND t.name = _name AND t.state = 0 AND t.version = _asked
       RETURNING t.stream_id, t.version INTO _stream, _v;
    END IF;
    IF _stream IS NOT NULL THEN
      _streams[_k] := _stream; _versions[_k] := _v; _won := true;
    ELSE
      SELECT * INTO _one FROM {schema}.decide_append(
        _tenant, _name, _category, _asked, _ids[_from + 1 : _from + _count], _floor);
      _status[_k] := _one.status; _streams[_k] := _one.head; _versions[_k] := _one.version;
      _lasts[_k] := _one.last_position; _won := _won OR _one.status = 'ok';
    END IF;
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
           e.i, e.cr, e.cs, coalesce(e.sv, 1), e.ty, _tenants[e.r], _names[e.r], e.d, e.m
      FROM (SELECT * FROM unnest(_requests, _numbers, _types, _ids, _datas, _metas, _schemas,
                                 _correlations, _causations)
              WITH ORDINALITY x(r, n, ty, i, d, m, sv, cr, cs, o)
             WHERE _status[r] = 'ok' ORDER BY o) e
    RETURNING stream_id, position),
    last AS (SELECT stream_id, max(position) AS position FROM ins GROUP BY stream_id)
  SELECT _status[g], _versions[g], coalesce(last.position, _lasts[g])
    FROM generate_series(1, _n) g LEFT JOIN last ON last.stream_id = _streams[g] ORDER BY g;
  IF cardinality(_o_request) = 0 THEN
    RETURN;
  END IF;
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
