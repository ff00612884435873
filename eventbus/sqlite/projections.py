"""Tables of read models and their versions: plain text in, text out, the model reads it back."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from eventbus.sqlite.audit import AUDIT
from eventbus.sqlite.own_tables import IS_THERE, TABLES, give_indexes, quoted
from eventbus.sqlite.room import refuse_without_room
from eventbus.sqlite.rows import Row
from eventbus.sqlite.session import Session
from eventbus.storage.events import Position
from eventbus.storage.projections import (
    EXAMPLES,
    Difference,
    Kind,
    Progress,
    ProjectionVersion,
    Table,
    beside,
    compared,
    kind_of,
    live_of,
    not_at_one_position,
    of_other_code,
    one_position,
    table_is_there,
)

_TYPES: dict[Kind, str] = {"int": "INTEGER", "bool": "INTEGER", "float": "REAL", "bytes": "BLOB"}
_VERSION = "name, version, status, code_hash, shards, built_to, publishes_after, runs"
_VERSIONS = f"""
SELECT {_VERSION}, {TABLES}, switched_at IS NOT NULL FROM eventbus_projections
 WHERE name = ? ORDER BY version"""
_NAMES = "SELECT DISTINCT name FROM eventbus_projections ORDER BY name"
_CREATE = f"""
INSERT INTO eventbus_projections ({_VERSION}, table_name, tables, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, eventbus_now()) ON CONFLICT (name, version) DO NOTHING"""
_TABLES_OF = f"SELECT {TABLES}, runs FROM eventbus_projections WHERE name = ? AND version = ?"
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
_STANDING = """
SELECT name, position FROM eventbus_checkpoints
 WHERE substr(name, 1, length(?1)) = ?1 OR substr(name, 1, length(?2)) = ?2 ORDER BY name"""
_HOLD = """
SELECT name, position FROM eventbus_checkpoints WHERE substr(name, 1, length(?1)) = ?1"""
_ENTERED = """
SELECT p.name, p.version, c.fingerprint FROM eventbus_projections p
  LEFT JOIN eventbus_checkpoints c ON c.name = p.name || '@' || p.version || '/0'
 WHERE p.status = 'active' AND p.name IN (SELECT value FROM json_each(?))"""
_CUT = "SELECT count(*) FROM eventbus_streams WHERE kept_from > 1 OR state = 2"
_ACTIVE = f"""
SELECT version, {TABLES}, runs FROM eventbus_projections WHERE name = ? AND status = 'active'"""
_STATUS = """
UPDATE eventbus_projections SET status = ?, switched_at = eventbus_now()
 WHERE name = ? AND version = ?"""
_PUBLISHES = "UPDATE eventbus_projections SET publishes_after = ? WHERE name = ? AND version = ?"
_RETIRE = "UPDATE eventbus_checkpoints SET state = ? WHERE substr(name, 1, length(?2)) = ?2"
# Of an inline version that is left: up to where its rows are.
_LEFT = "UPDATE eventbus_checkpoints SET position = ?1 WHERE substr(name, 1, length(?2)) = ?2"
_REVIVE = """
UPDATE eventbus_projections SET status = 'building', switched_at = eventbus_now()
 WHERE name = ? AND version = ? AND status = 'retired'"""
_PROGRESS = """
INSERT INTO eventbus_progress AS p (name, phase, done, total, rows, rate, started_at, beat_at)
VALUES (?, ?, ?, ?, ?, 0, eventbus_now(), eventbus_now())
ON CONFLICT (name) DO UPDATE SET
  rate = CASE WHEN p.phase <> excluded.phase OR excluded.done < p.done THEN 0
              WHEN excluded.beat_at > p.beat_at
              THEN (excluded.done - p.done) * 1000.0 / (excluded.beat_at - p.beat_at)
              ELSE p.rate END,
  started_at = CASE WHEN p.phase = 'done' THEN excluded.started_at ELSE p.started_at END,
  phase = excluded.phase, done = excluded.done, total = excluded.total, rows = excluded.rows,
  beat_at = excluded.beat_at"""
_WHERE_IT_IS = """
SELECT phase, done, total, rows, rate, (eventbus_now() - started_at) / 1000.0,
       (eventbus_now() - beat_at) / 1000.0
  FROM eventbus_progress WHERE name = ?"""


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
                connection.execute(_definition(table))
            return True

        return await self._session.run("projections.create", create)

    async def drop(self, name: str, version: int) -> None:
        """Forget a version that is not active, with its table and checkpoints."""

        def drop(connection: sqlite3.Connection) -> None:
            row = connection.execute(_TABLES_OF, (name, version)).fetchone()
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
        names = list(table.columns)
        loads = [number for number, name in enumerate(names) if _kind(table, name) == "json"]
        sql = f"SELECT {_columns(names)} FROM {quoted(table.name)} WHERE {_equal(table.key)}"
        wanted = [_key_values(table, key) for key in keys]

        def states(connection: sqlite3.Connection) -> list[Mapping[str, Any]]:
            found: list[Mapping[str, Any]] = []
            for key in wanted:
                row = connection.execute(sql, key).fetchone()
                if row is not None:
                    found.append(_state(names, row, loads))
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
        values = [_values(table, [row[name] for name in table.columns]) for row in rows]
        keys = [_key_values(table, key) for key in gone]
        delete = f"DELETE FROM {quoted(table.name)} WHERE {_equal(table.key)}"

        def write(connection: sqlite3.Connection) -> None:
            if values:
                connection.executemany(_upsert(table), values)
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
        values = [_values(table, [row[name] for name in table.columns]) for row in rows]
        make = f"{_insert(table)} ON CONFLICT ({_columns(table.key)}) DO NOTHING"

        def claim(connection: sqlite3.Connection) -> None:
            connection.executemany(make, values)

        await self._session.run("projections.claim", claim)
        return await self.states(table, [tuple(row[name] for name in table.key) for row in rows])

    async def load(self, table: Table, rows: Iterable[Sequence[Any]]) -> int:
        """Insert rows that are not there.

        Raises:
            StorageError: EB5006, the file system has no room for them; nothing was written.
        """
        values = [_values(table, row) for row in rows]

        def load(connection: sqlite3.Connection) -> int:
            refuse_without_room(connection, values)
            connection.executemany(_insert(table), values)
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
        names = [name for name in new.columns if name in old.columns]
        others = [name for name in names if name not in new.key]
        join = " AND ".join(f"o.{quoted(name)} = n.{quoted(name)}" for name in new.key)
        differ = " OR ".join(f"o.{quoted(name)} IS NOT n.{quoted(name)}" for name in others)
        some = f" ORDER BY random() LIMIT {int(sample)}" if sample else ""
        missing = f"o.{quoted(new.key[0])} IS NULL"
        joined = f"""
  FROM (SELECT * FROM {quoted(new.name)}{some}) n
  LEFT JOIN {quoted(old.name)} o ON {join}"""
        gone = f"""
  FROM {quoted(old.name)} o
 WHERE NOT EXISTS (SELECT 1 FROM {quoted(new.name)} n WHERE {join})"""
        keys = ", ".join(f"n.{quoted(name)}" for name in new.key)
        flags = "".join(f", o.{quoted(name)} IS NOT n.{quoted(name)}" for name in others)
        verdict = f"CASE WHEN {missing} THEN 1 WHEN {differ or '0'} THEN 2 ELSE 0 END"

        def compare(connection: sqlite3.Connection) -> Difference:
            counts, examples = [0, 0, 0], list[Mapping[str, Any]]()
            for row in connection.execute(f"SELECT {verdict}, {keys}{flags}{joined}"):
                counts[row[0]] += 1
                if row[0] and len(examples) < EXAMPLES:
                    examples.append(_example(row, new.key, others))
            lost = connection.execute(f"SELECT {keys.replace('n.', 'o.')}{gone}").fetchall()
            examples += [
                {"kind": "gone", "key": list(row), "columns": []}
                for row in lost[: EXAMPLES - len(examples)]
            ]
            return Difference(
                equal=counts[0], new=counts[1], differ=counts[2], gone=len(lost), examples=examples
            )

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

        def switch(connection: sqlite3.Connection) -> None:
            row = connection.execute(_ACTIVE, (name,)).fetchone()
            known = connection.execute(_TABLES_OF, (name, to)).fetchone()
            if row is None or known is None or row[0] == to:
                raise not_at_one_position(name, f"there is no version {to} beside an active one")
            old, tables, runs = row
            prefixes = f"{name}@{old}/", f"{name}@{to}/"
            standing = dict(connection.execute(_STANDING, prefixes).fetchall())
            inline = "inline" in {runs, known[1]}
            position = one_position(name, standing, compared(prefixes, back=back, inline=inline))
            if runs == "inline":
                connection.execute(_LEFT, (position, prefixes[0]))
            connection.execute(_STATUS, ("retired", name, old))
            connection.execute(_STATUS, ("active", name, to))
            connection.execute(_PUBLISHES, (position, name, to))
            for prefix, state in zip(prefixes, (2, 0), strict=True):
                connection.execute(_RETIRE, (state, prefix))
            for table in orjson.loads(tables):
                _rename(connection, table, beside(table, old))
            for table in orjson.loads(known[0]):
                _rename(connection, beside(table, to), table)

        await self._session.run("projections.switch", switch, slow=True)

    async def revive(self, name: str, version: int) -> None:
        """Its checkpoints may move again.

        Raises:
            StorageError: EB6008.
        """

        def revive(connection: sqlite3.Connection) -> None:
            if not connection.execute(_REVIVE, (name, version)).rowcount:
                raise not_at_one_position(name, f"version {version} is not retired")
            connection.execute(_RETIRE, (0, f"{name}@{version}/"))

        await self._session.run("projections.revive", revive)

    async def audit(
        self, verb: str, name: str, *, actor: str, reason: str, told: Mapping[str, Any]
    ) -> None:
        """A row of the operators' audit."""
        selection = orjson.dumps({"place": "projection", "projection": name, **told}).decode()
        await self._rows("projections.audit", AUDIT, (verb, selection, 1, actor, reason))

    async def progress(self, name: str, phase: str, *, done: int, total: int, rows: int) -> None:
        """Keep how far a rebuild is."""
        await self._rows("projections.progress", _PROGRESS, (name, phase, done, total, rows))

    async def standing(self, name: str) -> Progress | None:
        """How far it was at its last beat."""
        rows = await self._rows("projections.standing", _WHERE_IT_IS, (name,))
        if not rows:
            return None
        phase, done, total, written, rate, running, silent = rows[0]
        return Progress(
            phase=phase,
            done=done,
            total=total,
            rows=written,
            rate=rate,
            running_seconds=running,
            silent_seconds=silent,
        )

    async def _rows(self, where: str, sql: str, values: Row) -> list[Row]:
        def fetch(connection: sqlite3.Connection) -> list[Row]:
            return connection.execute(sql, values).fetchall()

        return await self._session.run(where, fetch)


def _rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    connection.execute(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")


def _definition(table: Table) -> str:
    columns: list[str] = []
    for name in table.columns:
        kind, nullable = kind_of(table.columns[name])
        columns.append(
            f"{quoted(name)} {_TYPES.get(kind, 'TEXT')}{'' if nullable else ' NOT NULL'}"
        )
    key = _columns(table.key)
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(columns)}, PRIMARY KEY ({key})) STRICT"


def _insert(table: Table) -> str:
    marks = ", ".join("?" for _ in table.columns)
    names = _columns(list(table.columns))
    return f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})"


def _upsert(table: Table) -> str:
    others = [quoted(name) for name in table.columns if name not in table.key]
    change = ", ".join(f"{name} = excluded.{name}" for name in others)
    action = f"UPDATE SET {change}" if others else "NOTHING"
    return f"{_insert(table)} ON CONFLICT ({_columns(table.key)}) DO {action}"


def _columns(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _equal(names: Sequence[str]) -> str:
    return " AND ".join(f"{quoted(name)} = ?" for name in names)


def _kind(table: Table, name: str) -> Kind:
    return kind_of(table.columns[name])[0]


def _values(table: Table, row: Sequence[Any]) -> Row:
    return tuple(
        _plain(value, _kind(table, name)) for name, value in zip(table.columns, row, strict=True)
    )


def _key_values(table: Table, key: Sequence[Any]) -> Row:
    return tuple(
        _plain(part, _kind(table, name)) for name, part in zip(table.key, key, strict=True)
    )


def _plain(value: Any, kind: Kind) -> Any:
    if kind == "json":
        return orjson.dumps(value).decode()
    if value is None or kind in {"str", "int", "float", "bool", "bytes"}:
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)


def _state(names: Sequence[str], row: Row, loads: Sequence[int]) -> dict[str, Any]:
    state = dict(zip(names, row, strict=True))
    for number in loads:
        state[names[number]] = orjson.loads(row[number])
    return state


def _example(row: Row, key: Sequence[str], others: Sequence[str]) -> Mapping[str, Any]:
    parts, flags = row[1 : 1 + len(key)], row[1 + len(key) :]
    kind = "new" if row[0] == 1 else "differ"
    columns = [name for name, flag in zip(others, flags, strict=True) if flag]
    return {"kind": kind, "key": list(parts), "columns": columns if kind == "differ" else []}


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
