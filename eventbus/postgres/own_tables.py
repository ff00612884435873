"""Tables that projections of the general form brought: made again beside, and watched."""

from collections.abc import Mapping, Sequence
from typing import Any

from eventbus.postgres.read_models import qualified
from eventbus.postgres.session import Session
from eventbus.storage.projections import Table, beside, table_is_there

# Of the general form its tables, else the one of the read model.
TABLES = "coalesce(tables, array_remove(ARRAY[table_name], NULL))"
_KEEP = """
UPDATE {schema}.projections SET tables = $3, table_schema = $4 WHERE name = $1 AND version = $2"""
_COLUMNS = """
SELECT a.attname AS name, array_position(i.indkey::int2[], a.attnum) AS place
  FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_IS_THERE = "SELECT to_regclass($1) IS NOT NULL AS there"
# Of this connection since it last told the statistics, which it does not do in a transaction.
_WRITES = """
SELECT name, pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
             + pg_stat_get_xact_tuples_deleted(c.oid) AS writes
  FROM unnest($1::text[]) name, LATERAL (SELECT to_regclass(format('%I.%I', $2::text, name))) c(oid)
 WHERE c.oid IS NOT NULL"""


class PostgresOwnTables:
    """They stand where the application's tables do: in the first schema of its search path."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: Mapping[str, int] = {}  # writes to what is watched

    async def keep(self, name: str, version: int, tables: Sequence[str]) -> None:
        """The row of the version names them."""
        self._session.wrote = True
        schema = await self._session.application_schema()
        await self._fetch(_KEEP, name, version, list(tables), schema, where="own_tables.keep")

    async def described(self, table: str) -> Table | None:
        """From the catalog."""
        place = qualified(await self._session.application_schema(), table)
        rows = await self._fetch(_COLUMNS, place, where="own_tables.described")
        key = sorted((row["place"], row["name"]) for row in rows if row["place"] is not None)
        columns = {str(row["name"]): str for row in rows}
        return (
            Table(name=table, key=tuple(name for _, name in key), columns=columns) if rows else None
        )

    async def imitate(self, tables: Sequence[str], version: int) -> None:
        """With defaults, checks and indexes; the names of its indexes are PostgreSQL's.

        Raises:
            StorageError: EB6003.
        """
        self._session.wrote = True
        schema = await self._session.application_schema()
        where = "own_tables.imitate"
        for table in tables:
            shadow = qualified(schema, beside(table, version))
            there = await self._fetch(_IS_THERE, shadow, where=where)
            if there[0]["there"]:
                raise table_is_there(beside(table, version))
            like = f"CREATE TABLE {shadow} (LIKE {qualified(schema, table)} INCLUDING ALL)"
            await self._session.execute(like, where=where)

    async def watch(self, tables: Sequence[str]) -> None:
        """How much was written to them so far."""
        self._before = await self._writes(list(tables))

    async def touched(self) -> Sequence[str]:
        """Those to which more was written since, undone or not."""
        before, self._before = self._before, {}
        now = await self._writes(list(before))
        return [name for name in before if now.get(name, 0) > before[name]]

    async def analyze(self, tables: Sequence[str]) -> None:
        """One after the other."""
        schema = await self._session.application_schema()
        for table in tables:
            await self._session.execute(
                f"ANALYZE {qualified(schema, table)}", where="own_tables.analyze"
            )

    async def _writes(self, tables: list[str]) -> dict[str, int]:
        schema = await self._session.application_schema()
        rows = await self._fetch(_WRITES, tables, schema, where="own_tables.watch")
        return {row["name"]: row["writes"] for row in rows}

    async def _fetch(self, statement: str, *args: object, where: str) -> list[Mapping[str, Any]]:
        sql = statement.format(schema=self._session.schema)
        return await self._session.fetch(sql, *args, where=where)
