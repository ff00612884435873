"""The audit: who changed what, and why; a row in the transaction of the change."""

AUDIT = """
INSERT INTO {schema}.audit (verb, selection, changed, actor, reason)
VALUES ($1, $2, $3, $4, $5)"""
