"""Tables of read models and their versions: plain text in, text out, the model reads it back."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from eventbus.sqlite import read_models, switching
from eventbus.sqlite.audit import AUDIT
from eventbus.sqlite.comparing import difference
from eventbus.sqlite.own_tables import IS_THERE, TABLES, give_indexes, quoted
from eventbus.sqlite.progress import NOTE, STANDING
from eventbus.sqlite.room import refuse_without_room
from eventbus.sqlite.rows import Row
from eventbus.sqlite.session import Session
from eventbus.sqlite.switching import TABLES_OF
from eventbus.storage.events import Position
from eventbus.storage.projections import (
    Difference,
    Progress,
    ProjectionVersion,
    Table,
    beside,
    live_of,
    of_other_code,
    table_is_there,
)

_VERSION = "name, version, status, code_hash, shards, built_to, publishes_after, runs"
_VERSIONS = f"""
SELECT {_VERSION}, {TABLES}, switched_at IS NOT NULL FROM eventbus_projections
 WHERE name = ? ORDER BY version"""
_NAMES = "SELECT DISTINCT name FROM eventbus_projections ORDER BY name"
_CREATE = f"""
INSERT INTO eventbus_projections ({_VERSION}, table_name, tables, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, eventbus_now()) ON CONFLICT (name, version) DO NOTHING"""
_OF_A_VERSION = (  # its checkpoints, the marks of its scan, what is parked in it
    ("DELETE FROM eventbus_checkpoints WHERE substr(name, 1, length(?1)) = ?1", ""),
    ("DELETE FROM eventbus_checkpoints WHERE substr(name, 1, length(?1)) = ?1", "scan/"),
    (
        "DELETE FROM eventbus_parked WHERE substr(group_name, 1, length(?1)) = ?1",
        "projection:",
    ),
    (
        "DELETE FROM eventbus_parked_keys WHERE substr(group_name, 1, length(?1)) = ?1",
        "projection:",
    ),
)
_FORGET_PROGRESS = """
DELETE FROM eventbus_progress WHERE name = ?1 OR substr(name, 1, length(?2)) = ?2"""
_BUILT = "UPDATE eventbus_projections SET built_to = ? WHERE name = ? AND version = ?"
_HOLD = """
SELECT name, position FROM eventbus_checkpoints WHERE substr(name, 1, length(?1)) = ?1"""
_ENTERED = """
SELECT p.name, p.version, c.fingerprint FROM eventbus_projections p
  LEFT JOIN eventbus_checkpoints c ON c.name = p.name || '@' || p.version || '/0'
 WHERE p.status = 'active' AND p.name IN (SELECT value FROM json_each(?))"""
_CUT = "SELECT count(*) FROM eventbus_streams WHERE kept_from > 1 OR state = 2"


class SqliteProjections:
    """One writer at a time, so a switch needs no locks but the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def versions(self, name: str) -> Sequence[ProjectionVersion]:
        """All of a name, the oldest first."""
        rows = await self._rows("projections.versions", _VERSIONS, (name,))
        return [_version_of(row) for row in rows]

    async def names(self) -> Sequence[str]:
        """Of all projections."""
        return [row[0] for row in await self._rows("projections.names", _NAMES, ())]

    async def create(self, version: ProjectionVersion, table: Table | None) -> bool:
        """The row, and its table.

        Raises:
            StorageError: EB6003, a table of that name stands there.
        """
        live = None if table is None else live_of(table.name)
        own = orjson.dumps(version.tables).decode() if table is None else None

        def create(connection: sqlite3.Connection) -> bool:
            if not connection.execute(_CREATE, (*_row_of(version), live, own)).rowcount:
                return False
            if table is not None:
                if connection.execute(IS_THERE, (table.name,)).fetchone():
                    raise table_is_there(table.name)
                connection.execute(read_models.definition(table))
            return True

        return await self._session.run("projections.create", create)

    async def drop(self, name: str, version: int) -> None:
        """Forget a version that is not active, with its table and checkpoints."""

        def drop(connection: sqlite3.Connection) -> None:
            row = connection.execute(TABLES_OF, (name, version)).fetchone()
            if row is None:
                return
            gone = connection.execute(
                "DELETE FROM eventbus_projections"
                " WHERE name = ? AND version = ? AND status <> 'active'",
                (name, version),
            )
            if not gone.rowcount:
                return
            for table in orjson.loads(row[0]):
                connection.execute(f"DROP TABLE IF EXISTS {quoted(beside(table, version))}")
            for statement, prefix in _OF_A_VERSION:
                connection.execute(statement, (f"{prefix}{name}@{version}/",))
            connection.execute(_FORGET_PROGRESS, (name, f"scan/{name}@{version}/"))

        await self._session.run("projections.drop", drop, slow=True)

    async def built(self, name: str, version: int, *, to: Position) -> None:
        """Keep how far the scan goes."""
        await self._rows("projections.built", _BUILT, (to, name, version))

    async def states(
        self, table: Table, keys: Iterable[tuple[Any, ...]]
    ) -> Sequence[Mapping[str, Any]]:
        """The rows of these keys."""
        sql = read_models.selection(table)
        wanted = [read_models.key_values(table, key) for key in keys]

        def states(connection: sqlite3.Connection) -> list[Mapping[str, Any]]:
            found: list[Mapping[str, Any]] = []
            for key in wanted:
                row = connection.execute(sql, key).fetchone()
                if row is not None:
                    found.append(read_models.state_of(table, row))
            return found

        return await self._session.run("projections.states", states)

    async def write(
        self,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        gone: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        """Insert or replace, and delete."""
        values = read_models.values_of_all(table, rows)
        keys = [read_models.key_values(table, key) for key in gone]
        delete = read_models.deletion(table)

        def write(connection: sqlite3.Connection) -> None:
            if values:
                connection.executemany(read_models.upsert(table), values)
            if keys:
                connection.executemany(delete, keys)

        await self._session.run("projections.write", write)

    async def enter(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, int]:
        """The active versions; the only writer needs no lock.

        Raises:
            StorageError: EB5202.
        """
        names = orjson.dumps(sorted(fingerprints)).decode()
        rows = await self._rows("projections.enter", _ENTERED, (names,))
        for name, version, fingerprint in rows:
            if fingerprint != fingerprints[name]:
                raise of_other_code(name, version)
        return {name: version for name, version, _ in rows}

    async def claim(
        self, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Insert those that are missing; the only writer holds all of them."""
        values = read_models.values_of_all(table, rows)

        def claim(connection: sqlite3.Connection) -> None:
            connection.executemany(read_models.insertion_if_missing(table), values)

        await self._session.run("projections.claim", claim)
        return await self.states(table, [tuple(row[name] for name in table.key) for row in rows])

    async def load(self, table: Table, rows: Iterable[Sequence[Any]]) -> int:
        """Insert rows that are not there.

        Raises:
            StorageError: EB5006, the file system has no room for them; nothing was written.
        """
        values = [read_models.values_of(table, row) for row in rows]

        def load(connection: sqlite3.Connection) -> int:
            refuse_without_room(connection, values)
            connection.executemany(read_models.insertion(table), values)
            return len(values)

        return await self._session.run("projections.load", load, slow=True)

    async def index(self, table: Table) -> None:
        """The live table's indexes, under names of the shadow."""

        def index(connection: sqlite3.Connection) -> None:
            give_indexes(connection, live_of(table.name), table.name)
            connection.execute(f"ANALYZE {quoted(table.name)}")

        await self._session.run("projections.index", index, slow=True)

    async def compare(self, old: Table, new: Table, *, sample: int = 0) -> Difference:
        """By the key, column by column."""

        def compare(connection: sqlite3.Connection) -> Difference:
            return difference(connection, old, new, sample=sample)

        return await self._session.run("projections.compare", compare, slow=True)

    async def hold(self, name: str, *, inline: bool = False) -> Mapping[str, Position]:
        """The only writer holds all of them."""
        return {
            one: Position(position)
            for one, position in await self._rows("projections.hold", _HOLD, (f"{name}@",))
        }

    async def cut(self) -> int:
        """Streams that lost events."""
        return int((await self._rows("projections.cut", _CUT, ()))[0][0])

    async def switch(self, name: str, *, to: int, back: bool = False) -> None:
        """Retire the active version, and let `to` be it.

        Raises:
            StorageError: EB6008.
        """
        work = partial(switching.switch, name=name, to=to, back=back)
        await self._session.run("projections.switch", work, slow=True)

    async def revive(self, name: str, version: int) -> None:
        """Its checkpoints may move again.

        Raises:
            StorageError: EB6008.
        """
        work = partial(switching.revive, name=name, version=version)
        await self._session.run("projections.revive", work)

    async def audit(
        self, verb: str, name: str, *, actor: str, reason: str, told: Mapping[str, Any]
    ) -> None:
        """A row of the operators' audit."""
        selection = orjson.dumps({"place": "projection", "projection": name, **told}).decode()
        await self._rows("projections.audit", AUDIT, (verb, selection, 1, actor, reason))

    async def progress(self, name: str, phase: str, *, done: int, total: int, rows: int) -> None:
        """Keep how far a rebuild is."""
        await self._rows("projections.progress", NOTE, (name, phase, done, total, rows))

    async def standing(self, name: str) -> Progress | None:
        """How far it was at its last beat."""
        rows = await self._rows("projections.standing", STANDING, (name,))
        return Progress(*rows[0]) if rows else None

    async def _rows(self, where: str, sql: str, values: Row) -> list[Row]:
        def fetch(connection: sqlite3.Connection) -> list[Row]:
            return connection.execute(sql, values).fetchall()

        return await self._session.run(where, fetch)


def _row_of(version: ProjectionVersion) -> Row:
    return (
        version.name,
        version.version,
        version.status,
        version.code_hash,
        version.shards,
        version.built_to,
        version.publishes_after,
        version.runs,
    )


def _version_of(row: Row) -> ProjectionVersion:
    return ProjectionVersion(
        name=row[0],
        version=row[1],
        status=row[2],
        code_hash=row[3],
        shards=row[4],
        built_to=None if row[5] is None else Position(row[5]),
        publishes_after=Position(row[6]),
        runs=row[7],
        tables=tuple(orjson.loads(row[8])),
        served=bool(row[9]),
    )
