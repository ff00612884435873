-- kind: expand
-- Rows as sagas send them: an array of these costs the driver and the server half of what an array
-- for each column does. A type stays as it is, for workers of two versions send it: what changes
-- shape gets another name.
CREATE TYPE {schema}.changed_saga AS (
  saga_id uuid, was bigint, version bigint, def_version int, def_digest bytea, status text,
  paused boolean, intent text, state_name text, data bytea, data_version int, plan bytea,
  error bytea, final boolean);
CREATE TYPE {schema}.changed_step AS (
  saga_id uuid, seq int, phase text, name text, occurrence int, kind text, effect_id uuid,
  status text, attempt int, reply_type text, reply bytea, error bytea, final boolean);
CREATE TYPE {schema}.changed_timer AS (
  saga_id uuid, name text, epoch bigint, delay interval);          -- without a delay: disarmed
CREATE TYPE {schema}.asked_call AS (
  saga_id uuid, effect_id uuid, seq int, phase text, step text, input bytea);
CREATE TYPE {schema}.added_correlation AS (saga_id uuid, saga_type text, name text, value text);
CREATE TYPE {schema}.journal_entry AS (
  saga_id uuid, version bigint, input_kind text, input_id text, from_status text, to_status text,
  detail bytea, actor text, worker text);
CREATE TYPE {schema}.begun_effect AS (
  effect_id uuid, saga_id uuid, step text, state text, lease interval);
CREATE TYPE {schema}.ended_effect AS (
  effect_id uuid, state text, reply_type text, reply bytea, fence bigint);
