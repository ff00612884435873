"""Tables of read models and their versions: one upsert per batch, COPY, a switch by renaming."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import orjson

from eventbus.postgres import inline as inlined
from eventbus.postgres import read_models, switching
from eventbus.postgres.audit import AUDIT
from eventbus.postgres.comparing import difference
from eventbus.postgres.indexing import give_indexes
from eventbus.postgres.own_tables import TABLES
from eventbus.postgres.progress import NOTE, STANDING
from eventbus.postgres.read_models import qualified
from eventbus.postgres.session import Session
from eventbus.storage.events import Position
from eventbus.storage.projections import (
    Difference,
    Progress,
    ProjectionVersion,
    Table,
    beside,
    live_of,
    table_is_there,
)

COPIED = 50_000  # rows at once: within the time that a statement may take

_VERSION = "name, version, status, code_hash, shards, built_to, publishes_after, runs"
_VERSIONS = f"""
SELECT {_VERSION}, {TABLES} AS tables, switched_at IS NOT NULL AS served
  FROM {{schema}}.projections
 WHERE name = $1 ORDER BY version"""
_NAMES = "SELECT DISTINCT name FROM {schema}.projections ORDER BY name"
_CREATE = f"""
INSERT INTO {{schema}}.projections ({_VERSION}, table_schema, table_name, tables)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (name, version) DO NOTHING RETURNING 1"""
_IS_THERE = "SELECT to_regclass($1) IS NOT NULL AS there"
_DROP = f"""
DELETE FROM {{schema}}.projections WHERE name = $1 AND version = $2 AND status <> 'active'
RETURNING table_schema, {TABLES} AS tables"""
_OF_A_VERSION = (  # its checkpoints, the marks of its scan, what is parked in it
    ("DELETE FROM {schema}.checkpoints WHERE starts_with(name, $1)", ""),
    ("DELETE FROM {schema}.checkpoints WHERE starts_with(name, $1)", "scan/"),
    ("DELETE FROM {schema}.parked WHERE starts_with(group_name, $1)", "projection:"),
    ("DELETE FROM {schema}.parked_keys WHERE starts_with(group_name, $1)", "projection:"),
)
_FORGET_PROGRESS = "DELETE FROM {schema}.progress WHERE name = $1 OR starts_with(name, $2)"
_BUILT = "UPDATE {schema}.projections SET built_to = $3 WHERE name = $1 AND version = $2"
_CUT = "SELECT count(*) AS n FROM {schema}.streams WHERE kept_from > 1 OR state = 2"


class PostgresProjections:
    """Read models stand in the schema of the application: the first of its search path."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def versions(self, name: str) -> Sequence[ProjectionVersion]:
        """All of a name, the oldest first."""
        rows = await self._fetch(_VERSIONS, name, where="projections.versions")
        return [_version_of(row) for row in rows]

    async def names(self) -> Sequence[str]:
        """Of all projections."""
        return [row["name"] for row in await self._fetch(_NAMES, where="projections.names")]

    async def create(self, version: ProjectionVersion, table: Table | None) -> bool:
        """The row, and its table.

        Raises:
            StorageError: EB6003, a table of that name stands there.
        """
        self._session.wrote = True
        schema = await self._session.application_schema()
        live = None if table is None else live_of(table.name)
        where = "projections.create"
        row = (version.built_to, version.publishes_after, version.runs, schema, live)
        own = list(version.tables) if table is None else None  # a declared one is its name
        made = await self._fetch(
            _CREATE,
            version.name,
            version.version,
            version.status,
            version.code_hash,
            version.shards,
            *row,
            own,
            where=where,
        )
        if not made or table is None:
            return bool(made)
        there = await self._fetch(_IS_THERE, qualified(schema, table.name), where=where)
        if there[0]["there"]:
            raise table_is_there(table.name)
        await self._session.execute(read_models.definition(schema, table), where=where)
        return True

    async def drop(self, name: str, version: int) -> None:
        """Forget a version that is not active, with its table and checkpoints."""
        self._session.wrote = True
        where = "projections.drop"
        for row in await self._fetch(_DROP, name, version, where=where):
            for one in row["tables"]:
                table = qualified(row["table_schema"], beside(one, version))
                await self._session.execute(f"DROP TABLE IF EXISTS {table}", where=where)
            for statement, prefix in _OF_A_VERSION:
                await self._fetch(statement, f"{prefix}{name}@{version}/", where=where)
            await self._fetch(_FORGET_PROGRESS, name, f"scan/{name}@{version}/", where=where)

    async def built(self, name: str, version: int, *, to: Position) -> None:
        """Keep how far the scan goes."""
        await self._fetch(_BUILT, name, version, to, where="projections.built")

    async def states(
        self, table: Table, keys: Iterable[tuple[Any, ...]]
    ) -> Sequence[Mapping[str, Any]]:
        """The rows of these keys."""
        wanted = list(keys)
        if not wanted:
            return ()
        sql = read_models.selection(await self._session.application_schema(), table)
        values = read_models.arrays(table, table.key, wanted)
        rows = await self._session.fetch(sql, *values, where="projections.states")
        return read_models.states(table, rows)

    async def write(
        self,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        gone: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        """One upsert, one delete."""
        schema = await self._session.application_schema()
        where = "projections.write"
        self._session.wrote = True
        if rows:
            ordered = sorted(rows, key=lambda row: [str(row[name]) for name in table.key])
            names = list(table.columns)
            values = read_models.arrays(
                table, names, [[row[name] for name in names] for row in ordered]
            )
            await self._session.execute(read_models.upsert(schema, table), *values, where=where)
        if gone:
            values = read_models.arrays(table, table.key, list(gone))
            await self._session.execute(read_models.deletion(schema, table), *values, where=where)

    async def enter(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, int]:
        """The active versions, under a lock that a switch waits for.

        Raises:
            StorageError: EB5202.
        """
        return await inlined.enter(self._session, fingerprints)

    async def claim(
        self, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """One statement makes and locks them."""
        claimed = await inlined.claim(
            self._session, await self._session.application_schema(), table, rows
        )
        return read_models.states(table, claimed)

    async def load(self, table: Table, rows: Iterable[Sequence[Any]]) -> int:
        """COPY, in pieces."""
        schema = await self._session.application_schema()
        names = list(table.columns)
        where, loaded, left = "projections.load", 0, iter(rows)
        self._session.wrote = True
        while piece := list(islice(left, COPIED)):
            columns = read_models.arrays(table, names, piece)
            connection = await self._session.raw()
            copy = partial(
                connection.copy_records_to_table,
                table.name,
                schema_name=schema,
                columns=names,
                records=list(zip(*columns, strict=True)),
            )
            await self._session.run(copy, where=where)
            loaded += len(piece)
        return loaded

    async def index(self, table: Table) -> None:
        """The live table's indexes, under names of the shadow."""
        await give_indexes(self._session, table)

    async def compare(self, old: Table, new: Table, *, sample: int = 0) -> Difference:
        """By 256 ranges of hashes, then row by row in those that differ."""
        return await difference(self._session, old, new, sample=sample)

    async def hold(self, name: str, *, inline: bool = False) -> Mapping[str, Position]:
        """All checkpoints, locked in the order of their names; those who have entered first."""
        return await switching.hold(self._session, name, inline=inline)

    async def cut(self) -> int:
        """Streams that lost events."""
        return int((await self._fetch(_CUT, where="projections.cut"))[0]["n"])

    async def switch(self, name: str, *, to: int, back: bool = False) -> None:
        """Retire the active version, and let `to` be it.

        Readers queue behind the renaming: it waits for its locks 500 ms, then fails, to be
        tried again.

        Raises:
            StorageError: EB6008; EB5007, a reader was in the way.
        """
        await switching.switch(self._session, name, to=to, back=back)

    async def revive(self, name: str, version: int) -> None:
        """Its checkpoints may move again.

        Raises:
            StorageError: EB6008.
        """
        await switching.revive(self._session, name, version)

    async def audit(
        self, verb: str, name: str, *, actor: str, reason: str, told: Mapping[str, Any]
    ) -> None:
        """A row of the operators' audit."""
        self._session.wrote = True
        selection = orjson.dumps({"place": "projection", "projection": name, **told}).decode()
        await self._fetch(AUDIT, verb, selection, 1, actor, reason, where="projections.audit")

    async def progress(self, name: str, phase: str, *, done: int, total: int, rows: int) -> None:
        """Keep how far a rebuild is."""
        self._session.wrote = True
        await self._fetch(NOTE, name, phase, done, total, rows, where="projections.progress")

    async def standing(self, name: str) -> Progress | None:
        """How far it was at its last beat."""
        rows = await self._fetch(STANDING, name, where="projections.standing")
        return Progress(*rows[0]) if rows else None

    async def _fetch(self, statement: str, *args: Any, where: str) -> list[Any]:
        sql = statement.format(schema=self._session.schema)
        return await self._session.fetch(sql, *args, where=where)


def _version_of(row: Any) -> ProjectionVersion:
    return ProjectionVersion(
        name=row["name"],
        version=row["version"],
        status=row["status"],
        code_hash=row["code_hash"],
        shards=row["shards"],
        built_to=None if row["built_to"] is None else Position(row["built_to"]),
        publishes_after=Position(row["publishes_after"]),
        runs=row["runs"],
        tables=tuple(row["tables"]),
        served=row["served"],
    )
