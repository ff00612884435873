-- kind: expand
-- What an application notes on a stream. Beside the head row: that one is written by every append.
CREATE TABLE {schema}.stream_metadata (
  stream_id bigint PRIMARY KEY, data bytea NOT NULL,
  noted_at timestamptz NOT NULL DEFAULT statement_timestamp());
