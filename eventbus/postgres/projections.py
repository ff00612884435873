"""Tables of read models and their versions: one upsert per batch, COPY, a switch by renaming."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import orjson

from eventbus.postgres import inline as inlined
from eventbus.postgres import read_models
from eventbus.postgres.audit import AUDIT
from eventbus.postgres.own_tables import TABLES
from eventbus.postgres.read_models import qualified, quoted
from eventbus.postgres.session import Session
from eventbus.storage.events import Position
from eventbus.storage.projections import (
    EXAMPLES,
    Difference,
    Progress,
    ProjectionVersion,
    Table,
    beside,
    compared,
    live_of,
    not_at_one_position,
    one_position,
    table_is_there,
)

COPIED = 50_000  # rows at once: within the time that a statement may take
LONG_SECONDS = 3600.0  # an index, a comparison

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
_INDEXES = """
SELECT i.relname AS name, pg_get_indexdef(x.indexrelid) AS sql
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
 WHERE x.indrelid = to_regclass($1) AND NOT x.indisprimary ORDER BY 1"""
_INDEX = re.compile(r"(?is)^(CREATE (?:UNIQUE )?INDEX)\s+.*?\s+ON\s+(?:ONLY\s+)?.*?\s+(USING\s)")
_BOTH = f"""
SELECT version, status, table_schema, {TABLES} AS tables, runs FROM {{schema}}.projections
 WHERE name = $1 AND (status = 'active' OR version = $2)"""
_STANDING = """
SELECT name, position FROM {schema}.checkpoints
 WHERE starts_with(name, $1) OR starts_with(name, $2) ORDER BY name FOR UPDATE"""
_HOLD = """
SELECT name, position FROM {schema}.checkpoints WHERE starts_with(name, $1)
 ORDER BY name FOR UPDATE"""
_CUT = "SELECT count(*) AS n FROM {schema}.streams WHERE kept_from > 1 OR state = 2"
_STATUS = """
UPDATE {schema}.projections SET status = $3, switched_at = statement_timestamp(),
       publishes_after = coalesce($4, publishes_after) WHERE name = $1 AND version = $2"""
_STATES = """
UPDATE {schema}.checkpoints SET state = CASE WHEN starts_with(name, $1) THEN 2 ELSE 0 END
 WHERE starts_with(name, $1) OR starts_with(name, $2)"""
# Of an inline version that is left: up to where its rows are.
_LEFT = "UPDATE {schema}.checkpoints SET position = $2 WHERE starts_with(name, $1)"
_REVIVE = """
UPDATE {schema}.projections SET status = 'building', switched_at = statement_timestamp()
 WHERE name = $1 AND version = $2 AND status = 'retired' RETURNING 1"""
_ALIVE = "UPDATE {schema}.checkpoints SET state = 0 WHERE starts_with(name, $1)"
_PROGRESS = """
INSERT INTO {schema}.progress AS p (name, phase, done, total, rows, rate, started_at, beat_at)
VALUES ($1, $2, $3, $4, $5, 0, statement_timestamp(), statement_timestamp())
ON CONFLICT (name) DO UPDATE SET
  rate = CASE WHEN p.phase <> excluded.phase OR excluded.done < p.done THEN 0
              WHEN excluded.beat_at > p.beat_at
              THEN (excluded.done - p.done) / extract(epoch FROM excluded.beat_at - p.beat_at)
              ELSE p.rate END,
  started_at = CASE WHEN p.phase = 'done' THEN excluded.started_at ELSE p.started_at END,
  phase = excluded.phase, done = excluded.done, total = excluded.total, rows = excluded.rows,
  beat_at = excluded.beat_at"""
_WHERE_IT_IS = """
SELECT phase, done, total, rows, rate,
       extract(epoch FROM statement_timestamp() - started_at)::float8 AS running,
       extract(epoch FROM statement_timestamp() - beat_at)::float8 AS silent
  FROM {schema}.progress WHERE name = $1"""


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
        schema, where = await self._session.application_schema(), "projections.index"
        live = live_of(table.name)
        suffix = table.name.removeprefix(live)
        place = qualified(schema, table.name)
        await self._slowly("SET LOCAL maintenance_work_mem = '256MB'", where)
        for row in await self._fetch(_INDEXES, qualified(schema, live), where=where):
            name = live_of(row["name"])[: 62 - len(suffix)] + suffix
            there = await self._fetch(_IS_THERE, qualified(schema, name), where=where)
            if not there[0]["there"]:
                head = rf"\1 {quoted(name)} ON {place} \2"
                await self._slowly(_INDEX.sub(head, row["sql"], count=1), where)
        await self._slowly(f"ANALYZE {place}", where)

    async def compare(self, old: Table, new: Table, *, sample: int = 0) -> Difference:
        """By 256 ranges of hashes, then row by row in those that differ."""
        schema, where = await self._session.application_schema(), "projections.compare"
        await self._unhurried(where)
        if sample:
            rows = await self._rows(read_models.rows_of_sample(schema, old, new), where, sample)
            rows += await self._rows(read_models.rows_gone(schema, old, new), where)
            return _difference(0, rows, old, new)
        ranges = await self._rows(read_models.buckets(schema, old, new), where)
        equal = sum(row["rows"] for row in ranges if row["same"])
        unequal = [row["b"] for row in ranges if not row["same"]]
        if not unequal:
            return Difference(equal=equal, differ=0, new=0, gone=0, examples=())
        rows = await self._rows(read_models.rows_of_buckets(schema, old, new), where, unequal)
        return _difference(equal, rows, old, new)

    async def hold(self, name: str, *, inline: bool = False) -> Mapping[str, Position]:
        """All checkpoints, locked in the order of their names; those who have entered first."""
        if inline:
            await inlined.exclude(self._session, name)
        rows = await self._fetch(_HOLD, f"{name}@", where="projections.hold")
        return {row["name"]: Position(row["position"]) for row in rows}

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
        where = "projections.switch"
        self._session.wrote = True
        await self._session.execute("SET LOCAL lock_timeout = '500ms'", where=where)
        rows = {row["version"]: row for row in await self._fetch(_BOTH, name, to, where=where)}
        old = next((row for row in rows.values() if row["status"] == "active"), None)
        if old is None or to not in rows or old["version"] == to:
            raise not_at_one_position(name, f"there is no version {to} beside an active one")
        prefixes = f"{name}@{old['version']}/", f"{name}@{to}/"
        standing = await self._fetch(_STANDING, *prefixes, where=where)
        found = {row["name"]: row["position"] for row in standing}
        inline = "inline" in {row["runs"] for row in rows.values()}
        position = one_position(name, found, compared(prefixes, back=back, inline=inline))
        if old["runs"] == "inline":
            await self._fetch(_LEFT, prefixes[0], position, where=where)
        await self._fetch(_STATUS, name, old["version"], "retired", None, where=where)
        await self._fetch(_STATUS, name, to, "active", position, where=where)
        await self._fetch(_STATES, *prefixes, where=where)
        await self._rename([(one, beside(one, old["version"])) for one in old["tables"]], old)
        await self._rename([(beside(one, to), one) for one in rows[to]["tables"]], rows[to])

    async def revive(self, name: str, version: int) -> None:
        """Its checkpoints may move again.

        Raises:
            StorageError: EB6008.
        """
        self._session.wrote = True
        where = "projections.revive"
        if not await self._fetch(_REVIVE, name, version, where=where):
            raise not_at_one_position(name, f"version {version} is not retired")
        await self._fetch(_ALIVE, f"{name}@{version}/", where=where)

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
        await self._fetch(_PROGRESS, name, phase, done, total, rows, where="projections.progress")

    async def standing(self, name: str) -> Progress | None:
        """How far it was at its last beat."""
        for row in await self._fetch(_WHERE_IT_IS, name, where="projections.standing"):
            return Progress(
                phase=row["phase"],
                done=row["done"],
                total=row["total"],
                rows=row["rows"],
                rate=row["rate"],
                running_seconds=row["running"],
                silent_seconds=row["silent"],
            )
        return None

    async def _rename(self, names: Iterable[tuple[str, str]], version: Mapping[str, Any]) -> None:
        for before, after in names:
            place = qualified(version["table_schema"], before)
            rename = f"ALTER TABLE {place} RENAME TO {quoted(after)}"
            await self._session.execute(rename, where="projections.switch")

    async def _fetch(self, statement: str, *args: Any, where: str) -> list[Any]:
        sql = statement.format(schema=self._session.schema)
        return await self._session.fetch(sql, *args, where=where)

    async def _unhurried(self, where: str) -> None:
        await self._session.execute("SET LOCAL statement_timeout = 0", where=where)

    async def _slowly(self, statement: str, where: str) -> None:
        await self._unhurried(where)
        connection = await self._session.raw()
        await self._session.run(
            partial(connection.execute, timeout=LONG_SECONDS), statement, where=where
        )

    async def _rows(self, statement: str, where: str, *args: Any) -> list[Any]:
        connection = await self._session.raw()
        fetch = partial(connection.fetch, timeout=LONG_SECONDS)
        rows: list[Any] = await self._session.run(fetch, statement, *args, where=where)
        return rows


def _difference(equal: int, rows: Sequence[Any], old: Table, new: Table) -> Difference:
    counts = {"equal": equal, "differ": 0, "new": 0, "gone": 0}
    others = [name for name in read_models.shared(old, new) if name not in new.key]
    examples: list[Mapping[str, Any]] = []
    for row in rows:
        counts[row["kind"]] += row["n"]
        if row["kind"] == "equal":
            continue
        for key, flags in zip(row["keys"], row["flags"], strict=True):
            changed: list[str] = [
                name for name, flag in zip(others, flags.split(","), strict=False) if flag == "t"
            ]
            columns = changed if row["kind"] == "differ" else []
            examples.append({"kind": row["kind"], "key": orjson.loads(key), "columns": columns})
    return Difference(**counts, examples=examples[:EXAMPLES])


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
