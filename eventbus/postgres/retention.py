"""What nobody needs any more goes, in small batches; the days ahead get their partitions."""

from datetime import timedelta

from eventbus.postgres.failures import FAILURES, sqlstate_of
from eventbus.postgres.pools import Connection

AHEAD = 7
ATTEMPTS = timedelta(days=7)
DISCARDED = timedelta(days=30)
AUDIT = timedelta(days=400)
RELAY_LEASES = timedelta(hours=1)

_DAYS = "SELECT {schema}.ensure_inbox_day(current_date + n) FROM generate_series(-1, $1::int) n"
_OLD_DAYS = """
SELECT c.relname AS name FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = '{schema}.inbox'::regclass AND c.relname ~ '^inbox_[0-9]{{8}}$'
   AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - 1
 ORDER BY 1"""
_SEEN = "SELECT coalesce(max(seen) < current_date - $1::interval, true) FROM {schema}.{table}"
_COUNT = "SELECT count(*) FROM {schema}.{table}"
_DELETIONS = (
    """
DELETE FROM {schema}.inbox_undated WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {schema}.inbox_undated WHERE seen < current_date - $1::interval LIMIT {limit}))""",
    """
DELETE FROM {schema}.inbox_other WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {schema}.inbox_other WHERE seen < current_date - $1::interval LIMIT {limit}))""",
    """
DELETE FROM {schema}.attempts WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {schema}.attempts WHERE at < statement_timestamp() - $2::interval LIMIT {limit}))""",
    """
DELETE FROM {schema}.discarded WHERE ctid = ANY (ARRAY(
  SELECT d.ctid FROM {schema}.discarded d JOIN {schema}.audit a ON a.id = d.audit_id
   WHERE a.at < statement_timestamp() - $3::interval LIMIT {limit}))""",
    """
DELETE FROM {schema}.audit WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {schema}.audit WHERE at < statement_timestamp() - $4::interval LIMIT {limit}))""",
    """
DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {schema}.leases WHERE starts_with(name, 'relay/')
     AND until < statement_timestamp() - $5::interval LIMIT {limit}))""",
)


async def prune(connection: Connection, schema: str, *, inbox: timedelta, limit: int) -> int:
    """Delete at most `limit` rows of each kind; a day of the inbox goes as a whole."""
    await _ahead(connection, schema)
    gone = await _days(connection, schema, inbox)
    spans = (inbox, ATTEMPTS, DISCARDED, AUDIT, RELAY_LEASES)
    for statement in _DELETIONS:
        sql = statement.format(schema=schema, limit=int(limit))
        used = [number for number in range(1, 6) if f"${number}::" in sql]
        for place, number in enumerate(used, 1):
            sql = sql.replace(f"${number}::", f"${place}::")
        tag = await connection.execute(sql, *(spans[number - 1] for number in used))
        gone += int(tag.rpartition(" ")[2])
    return gone


async def _ahead(connection: Connection, schema: str) -> None:
    """A partition missing is slow, not wrong: rows of that day stand in inbox_other."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '200ms'")
        try:
            async with connection.transaction():
                await connection.fetch(_DAYS.format(schema=schema), AHEAD)
        except FAILURES as error:
            if sqlstate_of(error) != "55P03":
                raise


async def _days(connection: Connection, schema: str, inbox: timedelta) -> int:
    """Drop days whose last row was seen long ago; busy ones go another time."""
    gone = 0
    for row in await connection.fetch(_OLD_DAYS.format(schema=schema)):
        table = row["name"]
        if not await connection.fetchval(_SEEN.format(schema=schema, table=table), inbox):
            continue
        count = int(await connection.fetchval(_COUNT.format(schema=schema, table=table)))
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '200ms'")
                await connection.execute(f"DROP TABLE {schema}.{table}")
        except FAILURES as error:
            if sqlstate_of(error) != "55P03":
                raise
            continue
        gone += count
    return gone
