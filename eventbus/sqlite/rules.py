"""Rules that hold between the tables after every commit, whatever was killed when."""

import sqlite3

from eventbus.errors import Finding
from eventbus.message import identity_of
from eventbus.storage.outbox import partition_of

_FIRST = 3  # examples in a finding

_RULES = (
    (
        "parked messages whose key is not held: nothing redelivers them, later ones overtake",
        """
SELECT p.group_name || ' ' || p.message_id FROM eventbus_parked p LEFT JOIN eventbus_parked_keys k
    ON k.group_name = p.group_name AND k.key = p.key WHERE k.key IS NULL""",
    ),
    (
        "dead keys without a message: nobody frees them, and what follows queues for ever",
        """
SELECT k.group_name || ' ' || k.key FROM eventbus_parked_keys k WHERE k.state = 1 AND NOT EXISTS (
  SELECT 1 FROM eventbus_parked p WHERE p.group_name = k.group_name AND p.key = k.key)""",
    ),
    (
        "parked messages that the inbox does not know: a repeat would run beside them",
        """
SELECT p.group_name || ' ' || p.message_id FROM eventbus_parked p
 WHERE p.position IS NULL AND p.parked_at > eventbus_now() - 604800000 AND NOT EXISTS (
  SELECT 1 FROM eventbus_inbox i WHERE i.group_name = p.group_name AND i.message = p.message)""",
    ),
    (
        "attempts that were counted in no time",
        "SELECT group_name || ' ' || message FROM eventbus_attempts WHERE attempts < 1",
    ),
    (
        "discarded messages without their audit row",
        """
SELECT d.group_name || ' ' || d.message_id FROM eventbus_discarded d
 WHERE NOT EXISTS (SELECT 1 FROM eventbus_audit a WHERE a.id = d.audit_id)""",
    ),
)
_OUTBOX = "SELECT part, message_id, source, key FROM eventbus_outbox ORDER BY id LIMIT ?"


def verify(connection: sqlite3.Connection, *, sample: int) -> list[Finding]:
    """What is broken; nothing, if all holds."""
    found = [(rule, [row[0] for row in connection.execute(query)]) for rule, query in _RULES]
    found.append(
        ("outbox rows in a partition that is not their key's", _astray(connection, sample))
    )
    damage = [row[0] for row in connection.execute("PRAGMA quick_check(10)")]
    findings = [_broken(rule, rows) for rule, rows in found if rows]
    if damage != ["ok"]:
        findings.append(_damaged(damage))
    return findings


def _astray(connection: sqlite3.Connection, sample: int) -> list[str]:
    rows = connection.execute(_OUTBOX, (sample or -1,))
    return [
        message_id
        for part, message_id, source, key in rows
        if part != partition_of(f"\x01{identity_of(source, message_id)}" if key is None else key)
    ]


def _broken(rule: str, rows: list[str]) -> Finding:
    shown = ", ".join(rows[:_FIRST]) + (", …" if len(rows) > _FIRST else "")
    return Finding(
        level="warn",
        code="EB9001",
        what=f"{len(rows)} {rule}",
        why=f"{shown}: no sequence of commits of the bus leaves this",
        next="keep a copy of the file and report it; eventbus parked list, eventbus outbox list",
    )


def _damaged(damage: list[str]) -> Finding:
    return Finding(
        level="warn",
        code="EB5001",
        what="the database file is damaged",
        why="; ".join(damage[:_FIRST]),
        next="restore a backup; check the disk, and that one process writes the file",
    )
