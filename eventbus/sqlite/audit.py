"""The audit: who changed what, and why; a row in the transaction of the change."""

AUDIT = """
INSERT INTO eventbus_audit (at, verb, selection, changed, actor, reason)
VALUES (eventbus_now(), ?, ?, ?, ?, ?)"""
