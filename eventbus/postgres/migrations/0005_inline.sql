-- kind: expand
-- Read models that are written in the transaction of the append.
ALTER TABLE {schema}.projections ADD COLUMN runs text NOT NULL DEFAULT 'following';

-- The locks first, the rows in a later statement: what a switch has committed meanwhile is seen. A
-- savepoint that is rolled back gives the locks back, so whoever appends again asks again.
CREATE FUNCTION {schema}.enter_inline(_names text[], _numbers bigint[])
  RETURNS TABLE (name text, version int, fingerprint bytea) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE _number bigint;
BEGIN
  FOREACH _number IN ARRAY _numbers LOOP
    PERFORM pg_advisory_xact_lock_shared({schema}.lock_key(2, _number));
  END LOOP;
  RETURN QUERY
    SELECT p.name, p.version, c.fingerprint
      FROM {schema}.projections p
      LEFT JOIN {schema}.checkpoints c ON c.name = p.name || '@' || p.version || '/0'
     WHERE p.name = ANY (_names) AND p.status = 'active';
END $$;
