-- kind: expand
-- What an application notes on a stream, beside its head.
CREATE TABLE eventbus_stream_metadata (
  stream_id INTEGER PRIMARY KEY, data BLOB NOT NULL, noted_at INTEGER NOT NULL
) STRICT;
