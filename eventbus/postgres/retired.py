"""Versions of read models that nobody goes back to: their tables, checkpoints, marks and leases."""

# ruff: noqa: S608 - names are ours; values are bound

from collections.abc import Mapping
from typing import Any

from eventbus.postgres.failures import FAILURES, sqlstate_of
from eventbus.postgres.own_tables import TABLES
from eventbus.postgres.pools import Connection
from eventbus.postgres.read_models import qualified
from eventbus.storage.projections import KEPT_RETIRED, beside, rows_of

BUSY = {"55P03", "40P01"}  # readers and workers come first: another time
# One that is building and was switched from: a rollback was cut off, and nobody went on with it.
_RETIRED = f"""
SELECT name, version, table_schema, {TABLES} AS tables FROM {{schema}}.projections
 WHERE status IN ('retired', 'building') AND switched_at < statement_timestamp() - $1::interval
 ORDER BY switched_at LIMIT $2"""
_FORGET = """
DELETE FROM {schema}.projections
 WHERE name = $1 AND version = $2 AND status IN ('retired', 'building')
   AND switched_at < statement_timestamp() - $3::interval RETURNING 1"""
_SCANNED = """
SELECT name, version FROM {schema}.projections p WHERE status <> 'building' AND EXISTS (
  SELECT 1 FROM {schema}.checkpoints c
   WHERE starts_with(c.name, 'scan/' || p.name || '@' || p.version || '/'))"""
_ROWS = "DELETE FROM {schema}.{table} WHERE starts_with({column}, $1)"


async def prune(connection: Connection, schema: str, *, limit: int) -> int:
    """Drop what was retired a week ago, and what scans that ended have left."""
    gone = 0
    for row in await connection.fetch(_RETIRED.format(schema=schema), KEPT_RETIRED, limit):
        gone += await _dropped(connection, schema, row)
    for row in await connection.fetch(_SCANNED.format(schema=schema)):
        gone += await _deleted(connection, schema, rows_of(row["name"], row["version"], scan=True))
    return gone


async def _dropped(connection: Connection, schema: str, row: Mapping[str, Any]) -> int:
    """One version, unless somebody went back to it meanwhile, or reads its table."""
    name, version = row["name"], row["version"]
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '200ms'")
            forget = _FORGET.format(schema=schema)
            if not await connection.fetch(forget, name, version, KEPT_RETIRED):
                return 0
            for one in row["tables"]:
                table = qualified(row["table_schema"], beside(one, version))
                await connection.execute(f"DROP TABLE IF EXISTS {table}")
            return 1 + await _deleted(connection, schema, rows_of(name, version, scan=False))
    except FAILURES as error:
        if sqlstate_of(error) not in BUSY:
            raise
        return 0


async def _deleted(connection: Connection, schema: str, rows: list[tuple[str, str, str]]) -> int:
    gone = 0
    for table, column, prefix in rows:
        sql = _ROWS.format(schema=schema, table=table, column=column)
        gone += _count(await connection.execute(sql, prefix))
    return gone


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
