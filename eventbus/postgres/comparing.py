"""What a switch would change: two tables of one key, compared by ranges of hashes."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from eventbus.postgres import read_models
from eventbus.postgres.session import Session
from eventbus.postgres.unhurried import fetch_unhurried
from eventbus.storage.projections import EXAMPLES, Difference, Table

_WHERE = "projections.compare"


async def difference(session: Session, old: Table, new: Table, *, sample: int) -> Difference:
    """By 256 ranges, then row by row in those that differ; or so many keys of the new table."""
    schema = await session.application_schema()
    if sample:
        sampled = read_models.rows_of_sample(schema, old, new)
        rows = await fetch_unhurried(session, sampled, sample, where=_WHERE)
        rows += await fetch_unhurried(
            session, read_models.rows_gone(schema, old, new), where=_WHERE
        )
        return _counted(0, rows, old, new)
    ranges = await fetch_unhurried(session, read_models.buckets(schema, old, new), where=_WHERE)
    equal = sum(row["rows"] for row in ranges if row["same"])
    unequal = [row["b"] for row in ranges if not row["same"]]
    if not unequal:
        return Difference(equal=equal, differ=0, new=0, gone=0, examples=())
    within = read_models.rows_of_buckets(schema, old, new)
    rows = await fetch_unhurried(session, within, unequal, where=_WHERE)
    return _counted(equal, rows, old, new)


def _counted(equal: int, rows: Sequence[Any], old: Table, new: Table) -> Difference:
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
