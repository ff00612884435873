-- kind: expand
-- A timer of a saga is found by its key: no plan may take this index for it, which it would read from
-- end to end. And tables that empty keep their pages: a plan made while they have none reads them whole.
DROP INDEX {schema}.saga_timer_due;
CREATE INDEX saga_timer_due ON {schema}.saga_timer (saga_type, def_version, due_at) INCLUDE (saga_id);
ALTER TABLE {schema}.saga_timer SET (vacuum_truncate = false);
ALTER TABLE {schema}.saga_call SET (vacuum_truncate = false);
