"""SQL of read models: what a declared table is in PostgreSQL, statement by statement."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from eventbus.storage.projections import Kind, Table, kind_of

_TYPES: dict[Kind, str] = {
    "str": "text",
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "Decimal": "numeric",
    "UUID": "uuid",
    "date": "date",
    "datetime": "timestamptz",
    "bytes": "bytea",
    "json": "jsonb",
}


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    """A table of a schema."""
    return f"{quoted(schema)}.{quoted(name)}"


def listed(names: Sequence[str], of: str = "") -> str:
    """Names, with the table they are of."""
    return ", ".join(f"{of}{quoted(name)}" for name in names)


def definition(schema: str, table: Table) -> str:
    """The table with its primary key only."""
    columns: list[str] = []
    for name, annotation in table.columns.items():
        kind, nullable = kind_of(annotation)
        collated = ' COLLATE "C"' if kind == "str" and name in table.key else ""
        columns.append(f"{quoted(name)} {_TYPES[kind]}{collated}{'' if nullable else ' NOT NULL'}")
    key = listed(table.key)
    return (
        f"CREATE TABLE {qualified(schema, table.name)} ({', '.join(columns)}, PRIMARY KEY ({key}))"
    )


def selection(schema: str, table: Table) -> str:
    """The rows of keys: an array for each column of the key."""
    place = qualified(schema, table.name)
    columns = listed(list(table.columns), "t.")
    if len(table.key) == 1:
        is_asked = f"{quoted(table.key[0])} = ANY({typed_arrays(table, table.key)})"
        return f"SELECT {columns} FROM {place} t WHERE {is_asked}"
    key = listed(table.key)
    return (
        f"SELECT {columns} FROM unnest({typed_arrays(table, table.key)}) k({key})"
        f" JOIN {place} t USING ({key})"
    )


def upsert(schema: str, table: Table) -> str:
    """Insert or replace: an array for each column."""
    names = list(table.columns)
    others = [quoted(name) for name in names if name not in table.key]
    change = ", ".join(f"{name} = excluded.{name}" for name in others)
    return (
        f"INSERT INTO {qualified(schema, table.name)} ({listed(names)})"
        f" SELECT * FROM unnest({typed_arrays(table, names)})"
        f" ON CONFLICT ({listed(table.key)}) DO {f'UPDATE SET {change}' if others else 'NOTHING'}"
    )


def deletion(schema: str, table: Table) -> str:
    """Delete keys: an array for each column of the key."""
    key = listed(table.key)
    same = " AND ".join(f"t.{quoted(name)} = k.{quoted(name)}" for name in table.key)
    return (
        f"DELETE FROM {qualified(schema, table.name)} t"
        f" USING unnest({typed_arrays(table, table.key)}) k({key}) WHERE {same}"
    )


def buckets(schema: str, old: Table, new: Table) -> str:
    """Which of 256 ranges of hashes differ, and how many rows the equal ones have."""
    columns = shared(old, new)

    def hashes(table: Table) -> str:
        row = f"ROW({listed(columns)})::text"
        return (
            f"SELECT {_bucket(table)} AS b, count(*) AS n,"
            f" sum(hashtextextended({row}, 0)::numeric) AS h"
            f" FROM {qualified(schema, table.name)} GROUP BY 1"
        )

    return (
        f"WITH o AS ({hashes(old)}), n AS ({hashes(new)})"
        " SELECT b, o.n = n.n AND o.h = n.h AS same, n.n AS rows FROM o FULL JOIN n USING (b)"
    )


def rows_of_buckets(schema: str, old: Table, new: Table) -> str:
    """Row by row, within the ranges of $1."""
    within = "WHERE {} = ANY($1::int[])"
    left = f"SELECT * FROM {qualified(schema, old.name)} {within.format(_bucket(old))}"
    right = f"SELECT * FROM {qualified(schema, new.name)} {within.format(_bucket(new))}"
    return _joined(f"({left}) o FULL JOIN ({right}) n", old, new)


def rows_of_sample(schema: str, old: Table, new: Table) -> str:
    """Row by row, of $1 keys of the new table."""
    right = f"SELECT * FROM {qualified(schema, new.name)} ORDER BY random() LIMIT $1"
    return _joined(f"({right}) n LEFT JOIN {qualified(schema, old.name)} o", old, new)


def rows_gone(schema: str, old: Table, new: Table) -> str:
    """Keys that the new table has no more, in the form of the other comparisons."""
    on = " AND ".join(f"o.{quoted(name)} = n.{quoted(name)}" for name in new.key)
    keys = ", ".join(f"o.{quoted(name)}::text" for name in new.key)
    return (
        "SELECT 'gone' AS kind, count(*) AS n, (array_agg(key ORDER BY key))[1:10] AS keys,"
        " array_fill(''::text, ARRAY[least(count(*), 10)::int]) AS flags"
        f" FROM (SELECT jsonb_build_array({keys})::text AS key FROM {qualified(schema, old.name)} o"
        f" WHERE NOT EXISTS (SELECT 1 FROM {qualified(schema, new.name)} n WHERE {on})) c"
        " HAVING count(*) > 0"
    )


def shared(old: Table, new: Table) -> list[str]:
    """The columns that both have."""
    return [name for name in new.columns if name in old.columns]


def states(table: Table, rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    """Rows as they were read, with json columns as Python values."""
    json = [name for name, kind in table.columns.items() if kind_of(kind)[0] == "json"]
    if not json:
        return rows
    found: list[Mapping[str, Any]] = []
    for row in rows:
        state = dict(row)
        for name in json:
            state[name] = None if state[name] is None else orjson.loads(state[name])
        found.append(state)
    return found


def arrays(table: Table, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows as an array for each column, in the form that the driver takes."""
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)]
    for number, name in enumerate(names):
        if kind_of(table.columns[name])[0] == "json":
            columns[number] = [orjson.dumps(value).decode() for value in columns[number]]
    return columns


def _joined(join: str, old: Table, new: Table) -> str:
    key = new.key
    others = [name for name in shared(old, new) if name not in key]
    flags = [f"o.{quoted(name)} IS DISTINCT FROM n.{quoted(name)}" for name in others]
    missing = quoted(key[0])
    on = " AND ".join(f"o.{quoted(name)} = n.{quoted(name)}" for name in key)
    keys = ", ".join(f"coalesce(n.{quoted(name)}, o.{quoted(name)})::text" for name in key)
    verdict = (
        f"CASE WHEN o.{missing} IS NULL THEN 'new' WHEN n.{missing} IS NULL THEN 'gone'"
        f" WHEN {' OR '.join(flags) or 'false'} THEN 'differ' ELSE 'equal' END"
    )
    columns = f"ARRAY[{', '.join(flags)}]::boolean[]"
    return (
        f"SELECT kind, count(*) AS n, (array_agg(key ORDER BY key))[1:10] AS keys,"
        " (array_agg(array_to_string(flags, ',') ORDER BY key))[1:10] AS flags"
        f" FROM (SELECT {verdict} AS kind, jsonb_build_array({keys})::text AS key,"
        f" {columns} AS flags FROM {join} ON {on}) c GROUP BY kind"
    )


def _bucket(table: Table) -> str:
    return f"(hashtextextended(ROW({listed(table.key)})::text, 0) & 255)::int"


def typed_arrays(table: Table, names: Sequence[str]) -> str:
    """A parameter for each column, from $1 on."""
    return ", ".join(
        f"${number}::{_TYPES[kind_of(table.columns[name])[0]]}[]"
        for number, name in enumerate(names, start=1)
    )
