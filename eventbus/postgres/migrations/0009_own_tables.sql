-- kind: expand
-- The tables of projections of the general form, which are switched and dropped with their version.
ALTER TABLE {schema}.projections ADD COLUMN tables text[];
