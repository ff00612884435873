"""What nobody needs any more goes, in small batches; days and months ahead get partitions."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from datetime import timedelta

from eventbus.postgres import retired
from eventbus.postgres.failures import FAILURES, sqlstate_of
from eventbus.postgres.pools import Connection

AHEAD = 7
ATTEMPTS = timedelta(days=7)
DISCARDED = timedelta(days=30)
AUDIT = timedelta(days=400)
RELAY_LEASES = timedelta(hours=1)
SCAN_SECONDS = 120.0  # a day of the inbox is read once before it goes
_BUSY = {"55P03", "40P01"}  # consumers come first: another time

_DAYS = "SELECT {schema}.ensure_inbox_day(current_date + n) FROM generate_series(-1, $1::int) n"
_MONTHS = """
SELECT {schema}.ensure_journal_month(
         (statement_timestamp() AT TIME ZONE 'UTC' + n * interval '1 month')::date)
  FROM generate_series(0, 2) n"""
_EVENTS = "SELECT {schema}.ensure_events_ahead()"
_OLD_DAYS = """
SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = '{schema}.inbox'::regclass AND c.relname ~ '^inbox_[0-9]{{8}}$'
   AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - 1
 ORDER BY 1"""
_OLD_MONTHS = """
SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = '{schema}.saga_journal'::regclass
   AND c.relname ~ '^saga_journal_[0-9]{{6}}$'
   AND right(c.relname, 6) < to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYYMM')
 ORDER BY 1"""
_NEEDED = "SELECT EXISTS (SELECT 1 FROM {schema}.{table} WHERE seen >= current_date - $1::interval)"
# a month of the journal goes when none of its sagas is there any more, open or finished
_TOLD = """
SELECT EXISTS (SELECT 1 FROM {schema}.{table} j JOIN {schema}.saga s ON s.saga_id = j.saga_id)"""
_COUNT = "SELECT count(*) FROM {schema}.{table}"


def _deletion(table: str, condition: str) -> str:
    return f"""
DELETE FROM {{schema}}.{table} WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {{schema}}.{table} WHERE {condition} LIMIT {{limit}}))"""


_BY_AGE = {
    _deletion("attempts", "at < statement_timestamp() - $1::interval"): ATTEMPTS,
    _deletion("discarded", "discarded_at < statement_timestamp() - $1::interval"): DISCARDED,
    _deletion("audit", "at < statement_timestamp() - $1::interval"): AUDIT,
    # never those of shared names, whose epoch must not start again
    _deletion(
        "leases",
        "(starts_with(name, 'relay/') OR starts_with(name, 'following/'))"
        " AND until < statement_timestamp() - $1::interval",
    ): RELAY_LEASES,
}
_CUT = """
DELETE FROM {schema}.events e USING (
  SELECT b.position FROM {schema}.streams s
    CROSS JOIN LATERAL (
      SELECT position FROM {schema}.events c
       WHERE c.stream_id = s.stream_id AND c.position > s.floor_pos
         AND (s.state = 2 OR c.version < s.kept_from)
       ORDER BY c.version LIMIT {limit}) b
   WHERE s.state = 2 OR s.kept_from > 1 LIMIT {limit}) d
 WHERE e.position = d.position"""
_SNAPSHOTS = """
DELETE FROM {schema}.snapshots n USING {schema}.streams s
 WHERE s.stream_id = n.stream_id AND s.state = 2"""
_INBOX = tuple(
    _deletion(table, "seen < current_date - $1::interval")
    for table in ("inbox_undated", "inbox_other")
)


async def prune(connection: Connection, schema: str, *, inbox: timedelta, limit: int) -> int:
    """Delete at most `limit` rows of each kind; a day of the inbox goes as a whole.

    Of the event log: what was truncated, and the events of tombstoned streams.
    """
    await _ahead(connection, schema)
    gone = await _dropped(connection, schema, _OLD_DAYS, _NEEDED, inbox)
    gone += await _dropped(connection, schema, _OLD_MONTHS, _TOLD)
    for statement, span in [*((one, inbox) for one in _INBOX), *_BY_AGE.items()]:
        sql = statement.format(schema=schema, limit=int(limit))
        tag = await connection.execute(sql, span)
        gone += _rows(tag)
    gone += await retired.prune(connection, schema, limit=limit)
    await connection.execute(_SNAPSHOTS.format(schema=schema))
    return gone + _rows(await connection.execute(_CUT.format(schema=schema, limit=int(limit))))


def _rows(tag: str) -> int:
    return int(tag.rpartition(" ")[2])


async def _ahead(connection: Connection, schema: str) -> None:
    """A partition missing is slow, not wrong: its rows stand in the default one."""
    await _unless_busy(connection, _DAYS.format(schema=schema), AHEAD)
    await _unless_busy(connection, _MONTHS.format(schema=schema))
    await _unless_busy(connection, _EVENTS.format(schema=schema))


async def _dropped(
    connection: Connection, schema: str, old: str, needed: str, *args: object
) -> int:
    """Drop partitions of which nothing is needed any more; busy ones go another time."""
    gone = 0
    for row in await connection.fetch(old.format(schema=schema)):
        names = {"schema": schema, "table": row["name"]}
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = '{SCAN_SECONDS:.0f}s'")
            wait = SCAN_SECONDS + 5
            if await connection.fetchval(needed.format(**names), *args, timeout=wait):
                continue
            count = await connection.fetchval(_COUNT.format(**names), timeout=wait)
        if await _unless_busy(connection, "DROP TABLE {schema}.{table}".format(**names)):
            gone += int(count)
    return gone


async def _unless_busy(connection: Connection, statement: str, *args: object) -> bool:
    """All consumers queue behind a lock on the inbox that waits: so it does not wait for long."""
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '200ms'")
            await connection.execute(statement, *args)
    except FAILURES as error:
        if sqlstate_of(error) not in _BUSY:
            raise
        return False
    return True
