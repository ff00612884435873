"""Tables that projections of the general form brought: made again beside, and watched."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import re
import sqlite3
from collections.abc import Sequence

import orjson

from eventbus.sqlite.session import Session
from eventbus.storage.projections import Table, beside, live_of, table_is_there

# Of the general form its tables, else the one of the read model.
TABLES = """coalesce(
  tables, CASE WHEN table_name IS NULL THEN '[]' ELSE json_array(table_name) END)"""
IS_THERE = "SELECT 1 FROM sqlite_schema WHERE name = ? COLLATE NOCASE"
_KEEP = "UPDATE eventbus_projections SET tables = ? WHERE name = ? AND version = ?"
_COLUMNS = "SELECT name, pk FROM pragma_table_info(?)"
_TABLE = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE"
_INDEXES = """
SELECT name, sql FROM sqlite_schema
 WHERE type = 'index' AND tbl_name = ? COLLATE NOCASE AND sql > '' ORDER BY name"""
_NAME = r"(?:\"[^\"]+\"|\[[^\]]+\]|`[^`]+`|\w+)"
_CREATE = re.compile(rf"(?is)^create\s+table\s+{_NAME}")
_INDEX = re.compile(rf"(?is)^(create\s+(?:unique\s+)?index)\s.*?\son\s+{_NAME}")
_NOTES = "CREATE TEMP TABLE IF NOT EXISTS eventbus_touched (name TEXT PRIMARY KEY)"
_WAYS = ("INSERT", "UPDATE", "DELETE")


class SqliteOwnTables:
    """What is watched has triggers for so long, which no other connection sees."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._watched: Sequence[str] = ()

    async def keep(self, name: str, version: int, tables: Sequence[str]) -> None:
        """The row of the version names them."""
        names = orjson.dumps(list(tables)).decode()

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute(_KEEP, (names, name, version))

        await self._session.run("own_tables.keep", keep)

    async def described(self, table: str) -> Table | None:
        """By its pragma."""

        def described(connection: sqlite3.Connection) -> Table | None:
            rows = connection.execute(_COLUMNS, (table,)).fetchall()
            key = tuple(name for name, place in sorted(rows, key=lambda row: row[1]) if place)
            return (
                Table(name=table, key=key, columns=dict.fromkeys(row[0] for row in rows))
                if rows
                else None
            )

        return await self._session.run("own_tables.described", described)

    async def imitate(self, tables: Sequence[str], version: int) -> None:
        """By their own statements, under another name.

        Raises:
            StorageError: EB6003.
        """

        def imitate(connection: sqlite3.Connection) -> None:
            for table in tables:
                shadow = beside(table, version)
                if connection.execute(IS_THERE, (shadow,)).fetchone():
                    raise table_is_there(shadow)
                ((sql,),) = connection.execute(_TABLE, (table,)).fetchall()
                connection.execute(_CREATE.sub(f"CREATE TABLE {quoted(shadow)}", sql, count=1))
                give_indexes(connection, table, shadow)

        await self._session.run("own_tables.imitate", imitate)

    async def watch(self, tables: Sequence[str]) -> None:
        """A trigger of each kind notes the name of the table."""
        self._watched = tables

        def watch(connection: sqlite3.Connection) -> None:
            connection.execute(_NOTES)
            connection.execute("DELETE FROM temp.eventbus_touched")
            for table in tables:
                for way in _WAYS:
                    connection.execute(
                        f"CREATE TEMP TRIGGER {_trigger(table, way)} AFTER {way} ON"
                        f" main.{quoted(table)} BEGIN INSERT OR IGNORE INTO eventbus_touched"
                        f" VALUES ('{table}'); END"
                    )

        await self._session.run("own_tables.watch", watch)

    async def touched(self) -> Sequence[str]:
        """What the triggers noted; they go."""
        watched, self._watched = self._watched, ()

        def touched(connection: sqlite3.Connection) -> Sequence[str]:
            rows = connection.execute("SELECT name FROM temp.eventbus_touched").fetchall()
            for table in watched:
                for way in _WAYS:
                    connection.execute(f"DROP TRIGGER temp.{_trigger(table, way)}")
            return [name for (name,) in rows]

        return await self._session.run("own_tables.touched", touched)

    async def analyze(self, tables: Sequence[str]) -> None:
        """One after the other."""

        def analyze(connection: sqlite3.Connection) -> None:
            for table in tables:
                connection.execute(f"ANALYZE {quoted(table)}")

        await self._session.run("own_tables.analyze", analyze, slow=True)


def give_indexes(connection: sqlite3.Connection, live: str, shadow: str) -> None:
    """The live table's indexes for its shadow, under names of its own; those that it has stay."""
    suffix = shadow.removeprefix(live)
    for name, sql in connection.execute(_INDEXES, (live,)).fetchall():
        of_shadow = live_of(name) + suffix
        if not connection.execute(IS_THERE, (of_shadow,)).fetchone():
            head = rf"\1 {quoted(of_shadow)} ON {quoted(shadow)}"
            connection.execute(_INDEX.sub(head, sql, count=1))


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def _trigger(table: str, way: str) -> str:
    return quoted(f"eventbus_{way.lower()}_{table}")
