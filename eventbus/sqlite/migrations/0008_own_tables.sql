-- kind: expand
-- The tables of projections of the general form, which are switched and dropped with their version.
ALTER TABLE eventbus_projections ADD COLUMN tables TEXT;
