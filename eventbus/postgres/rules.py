"""Rules that hold between the tables after every commit, whatever was killed when."""

from eventbus.errors import Finding
from eventbus.message import identity_of
from eventbus.postgres.pools import Connection
from eventbus.storage.outbox import partition_of

_FIRST = 3  # examples in a finding
_MOST = 1000  # rows of a rule that are counted
SCAN_SECONDS = 120.0

_RULES = (
    (
        "parked messages whose key is not held: nothing redelivers them, later ones overtake",
        """
SELECT p.group_name || ' ' || p.message_id FROM {schema}.parked p WHERE NOT EXISTS (
  SELECT 1 FROM {schema}.parked_keys k WHERE k.group_name = p.group_name AND k.key = p.key)""",
    ),
    (
        "dead keys without a message: nobody frees them, and what follows queues for ever",
        """
SELECT k.group_name || ' ' || k.key FROM {schema}.parked_keys k WHERE k.state = 1 AND NOT EXISTS (
  SELECT 1 FROM {schema}.parked p WHERE p.group_name = k.group_name AND p.key = k.key)""",
    ),
    (
        "parked messages that the inbox does not know: a repeat would run beside them",
        """
SELECT p.group_name || ' ' || p.message_id FROM {schema}.parked p
 WHERE p.position IS NULL AND p.parked_at > statement_timestamp() - interval '7 days'
   AND NOT EXISTS (
  SELECT 1 FROM {schema}.inbox i WHERE i.group_name = p.group_name AND i.message = p.message)""",
    ),
    (
        "attempts that were counted in no time",
        "SELECT group_name || ' ' || message FROM {schema}.attempts WHERE attempts < 1",
    ),
    (
        "discarded messages without their audit row",
        """
SELECT d.group_name || ' ' || d.message_id FROM {schema}.discarded d
 WHERE NOT EXISTS (SELECT 1 FROM {schema}.audit a WHERE a.id = d.audit_id)""",
    ),
)
_OUTBOX = "SELECT part, message_id, source, key FROM {schema}.outbox ORDER BY part, id"


async def verify(connection: Connection, schema: str, *, sample: int) -> list[Finding]:
    """What is broken; nothing, if all holds. One snapshot, which can write nothing."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = '{SCAN_SECONDS:.0f}s'")
        found = []
        for rule, query in _RULES:
            sql = f"{query.format(schema=schema)} LIMIT {_MOST}"
            rows = await connection.fetch(sql, timeout=SCAN_SECONDS + 5)
            found.append((rule, [str(row[0]) for row in rows]))
        astray = await _astray(connection, schema, sample)
    found.append(("outbox rows in a partition that is not their key's", astray))
    return [_broken(rule, rows) for rule, rows in found if rows]


async def _astray(connection: Connection, schema: str, sample: int) -> list[str]:
    sql = _OUTBOX.format(schema=schema) + (f" LIMIT {int(sample)}" if sample else "")
    astray = []
    async for part, message_id, source, key in connection.cursor(sql, prefetch=1000):
        own = f"\x01{identity_of(source, message_id)}" if key is None else key
        if part != partition_of(own):
            astray.append(message_id)
    return astray


def _broken(rule: str, rows: list[str]) -> Finding:
    shown = ", ".join(rows[:_FIRST]) + (", …" if len(rows) > _FIRST else "")
    amount = f"{_MOST} or more" if len(rows) >= _MOST else str(len(rows))
    return Finding(
        level="warn",
        code="EB9001",
        what=f"{amount} {rule}",
        why=f"{shown}: no sequence of commits of the bus leaves this",
        next="keep a dump and report it; eventbus parked list, eventbus outbox list",
    )
