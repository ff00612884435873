"""SQL of read models: what a declared table is in SQLite; plain text in, text out."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from eventbus.sqlite.own_tables import quoted
from eventbus.sqlite.rows import Row
from eventbus.storage.projections import Kind, Table, kind_of

_TYPES: dict[Kind, str] = {"int": "INTEGER", "bool": "INTEGER", "float": "REAL", "bytes": "BLOB"}


def definition(table: Table) -> str:
    """The table with its primary key only."""
    columns: list[str] = []
    for name in table.columns:
        kind, nullable = kind_of(table.columns[name])
        columns.append(
            f"{quoted(name)} {_TYPES.get(kind, 'TEXT')}{'' if nullable else ' NOT NULL'}"
        )
    key = listed(table.key)
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(columns)}, PRIMARY KEY ({key})) STRICT"


def insertion(table: Table) -> str:
    """A row that is not there."""
    marks = ", ".join("?" for _ in table.columns)
    names = listed(list(table.columns))
    return f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})"


def insertion_if_missing(table: Table) -> str:
    """A row, unless one of its key is there."""
    return f"{insertion(table)} ON CONFLICT ({listed(table.key)}) DO NOTHING"


def upsert(table: Table) -> str:
    """Insert or replace."""
    others = [quoted(name) for name in table.columns if name not in table.key]
    change = ", ".join(f"{name} = excluded.{name}" for name in others)
    action = f"UPDATE SET {change}" if others else "NOTHING"
    return f"{insertion(table)} ON CONFLICT ({listed(table.key)}) DO {action}"


def selection(table: Table) -> str:
    """The row of a key."""
    columns = listed(list(table.columns))
    return f"SELECT {columns} FROM {quoted(table.name)} WHERE {matching(table.key)}"


def deletion(table: Table) -> str:
    """The row of a key is gone."""
    return f"DELETE FROM {quoted(table.name)} WHERE {matching(table.key)}"


def listed(names: Sequence[str]) -> str:
    """Names, quoted."""
    return ", ".join(quoted(name) for name in names)


def matching(names: Sequence[str]) -> str:
    """A key: a value for each of its columns."""
    return " AND ".join(f"{quoted(name)} = ?" for name in names)


def _kind(table: Table, name: str) -> Kind:
    return kind_of(table.columns[name])[0]


def values_of(table: Table, row: Sequence[Any]) -> Row:
    """A row as the database keeps it, in the order of the columns."""
    return tuple(
        _plain(value, _kind(table, name)) for name, value in zip(table.columns, row, strict=True)
    )


def values_of_all(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The same for rows by the names of their columns."""
    return [values_of(table, [row[name] for name in table.columns]) for row in rows]


def key_values(table: Table, key: Sequence[Any]) -> Row:
    """A key as the database keeps it."""
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


def state_of(table: Table, row: Row) -> dict[str, Any]:
    """A row as it was read, with json columns as Python values."""
    state = dict(zip(table.columns, row, strict=True))
    for name in table.columns:
        if _kind(table, name) == "json":
            state[name] = orjson.loads(state[name])
    return state
