-- kind: expand
-- Read models that are written in the transaction of the append.
ALTER TABLE eventbus_projections ADD COLUMN runs TEXT NOT NULL DEFAULT 'following';
