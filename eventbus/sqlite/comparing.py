"""What a switch would change: two tables of one key, compared column by column."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from eventbus.sqlite.own_tables import quoted
from eventbus.sqlite.rows import Row
from eventbus.storage.projections import EXAMPLES, Difference, Table


def difference(
    connection: sqlite3.Connection, old: Table, new: Table, *, sample: int
) -> Difference:
    """Row by row, of all keys, or of so many of the new table; what is gone, of all."""
    others = [name for name in new.columns if name in old.columns and name not in new.key]
    same_key = " AND ".join(f"o.{quoted(name)} = n.{quoted(name)}" for name in new.key)
    counts, examples = [0, 0, 0], list[Mapping[str, Any]]()
    for row in connection.execute(_verdicts(old, new, others, same_key, sample)):
        counts[row[0]] += 1
        if row[0] and len(examples) < EXAMPLES:
            examples.append(_example(row, new.key, others))
    keys = ", ".join(f"o.{quoted(name)}" for name in new.key)
    lost = connection.execute(
        f"SELECT {keys} FROM {quoted(old.name)} o"
        f" WHERE NOT EXISTS (SELECT 1 FROM {quoted(new.name)} n WHERE {same_key})"
    ).fetchall()
    examples += [
        {"kind": "gone", "key": list(row), "columns": []}
        for row in lost[: EXAMPLES - len(examples)]
    ]
    return Difference(
        equal=counts[0], new=counts[1], differ=counts[2], gone=len(lost), examples=examples
    )


def _verdicts(old: Table, new: Table, others: Sequence[str], same_key: str, sample: int) -> str:
    """Of each key of the new table: 0 equal, 1 new, 2 differs; the key; which columns differ."""
    some = f" ORDER BY random() LIMIT {int(sample)}" if sample else ""
    flags = [f"o.{quoted(name)} IS NOT n.{quoted(name)}" for name in others]
    differs = " OR ".join(flags) or "0"
    is_new = f"o.{quoted(new.key[0])} IS NULL"
    keys = [f"n.{quoted(name)}" for name in new.key]
    verdict = f"CASE WHEN {is_new} THEN 1 WHEN {differs} THEN 2 ELSE 0 END"
    return (
        f"SELECT {', '.join([verdict, *keys, *flags])}"
        f" FROM (SELECT * FROM {quoted(new.name)}{some}) n"
        f" LEFT JOIN {quoted(old.name)} o ON {same_key}"
    )


def _example(row: Row, key: Sequence[str], others: Sequence[str]) -> Mapping[str, Any]:
    parts, flags = row[1 : 1 + len(key)], row[1 + len(key) :]
    kind = "new" if row[0] == 1 else "differ"
    columns = [name for name, flag in zip(others, flags, strict=True) if flag]
    return {"kind": kind, "key": list(parts), "columns": columns if kind == "differ" else []}
