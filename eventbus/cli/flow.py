"""What belongs to one flow, as a tree of causes or as a graph."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from eventbus.cli.output import cell

Row = Mapping[str, Any]


def tree(rows: Sequence[Row]) -> Iterator[str]:
    """A line each, under what caused it; causes that no stream holds are named."""
    children = _children(rows)
    for cause, first in children.items():
        if cause is not None and not any(row["id"] == cause for row in rows):
            yield f"({cell(cause)}: in no stream)"
            yield from _branches(first, children, "")
    for row in children.get(None, ()):
        yield _label(row)
        yield from _branches(children.get(row["id"], []), children, "", row)


def dot(rows: Sequence[Row]) -> Iterator[str]:
    """Graphviz: an arrow from each cause to what it caused."""
    yield "digraph flow {"
    yield "  rankdir=LR; node [shape=box];"
    for row in rows:
        label = f"{row['type']}\n{row['stream']}@{row['version']}"
        yield f"  {json.dumps(row['id'])} [label={json.dumps(label)}];"
    for row in rows:
        if row["causation_id"] is not None:
            yield f"  {json.dumps(row['causation_id'])} -> {json.dumps(row['id'])};"
    yield "}"


def _children(rows: Sequence[Row]) -> dict[str | None, list[Row]]:
    found: dict[str | None, list[Row]] = {}
    for row in rows:
        found.setdefault(row["causation_id"], []).append(row)
    return found


def _branches(
    rows: Sequence[Row],
    children: Mapping[str | None, list[Row]],
    indent: str,
    cause: Row | None = None,
) -> Iterator[str]:
    for row in rows:
        last = row is rows[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}{_label(row, cause)}"
        below = children.get(row["id"], [])
        yield from _branches(below, children, f"{indent}{'   ' if last else '│  '}", row)


def _label(row: Row, cause: Row | None = None) -> str:
    when = row["recorded_at"]
    if cause is not None:
        passed = datetime.fromisoformat(when) - datetime.fromisoformat(cause["recorded_at"])
        when = f"+{passed.total_seconds() * 1000:.0f} ms"
    return cell(f"{row['type']}  {row['stream']}@{row['version']}  {when}  {row['id']}")
