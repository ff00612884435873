"""What the planner makes of statements when it knows no value: the plan that stays."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eventbus.postgres import PostgresStorage
from eventbus.postgres.pools import Role

Plan = tuple[str, Mapping[str, int], str, str, Role, set[str]]
"""Statement, its limits, types and values of its parameters, role, indexes it must go by."""

_LEADING = """
SELECT i.relname AS index, t.relname AS table, a.attname AS leading
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
 WHERE i.relnamespace = $1::text::regnamespace"""


async def wrong_plans(
    storage: PostgresStorage, plans: Mapping[str, Plan], large: set[str]
) -> dict[str, tuple[str, str]]:
    """Those that read one of the large tables whole, or go by other indexes."""
    schema = storage.config.schema
    wrong: dict[str, tuple[str, str]] = {}
    async with storage.pools.connecting("control") as connection:
        leading = {row["index"]: row for row in await connection.fetch(_LEADING, schema)}
    for name, (statement, limits, types, values, role, wanted) in plans.items():
        sql = statement.format(schema=schema, **limits)
        taken = f"({types})".format(schema=schema) if types else ""
        given = f"({values})".format(schema=schema) if values else ""
        async with storage.pools.connecting(role) as connection:
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            await connection.execute(f"PREPARE asked {taken} AS {sql}")
            text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked {given}")
            await connection.execute("DEALLOCATE asked; RESET plan_cache_mode")
        nodes = list(_nodes(json.loads(text)[0]["Plan"]))
        indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
        whole = {one for node in nodes if (one := _read_whole(node, leading)) is not None}
        missing = {one for one in wanted if not any(_like(one, index) for index in indexes)}
        if missing or whole & large:  # what is not large may be read as they like
            wrong[name] = (f"read whole: {whole & large}, without {missing}", text)
    return wrong


async def forget_the_rows(connection: Any, schema: str) -> None:
    """Leave the statistics as they are taken of queues that are empty for once."""
    await connection.execute("ANALYZE", timeout=60)
    await connection.execute(
        "UPDATE pg_class SET reltuples = 0 WHERE relnamespace = $1::text::regnamespace", schema
    )


def _read_whole(node: Mapping[str, Any], leading: Mapping[str, Any]) -> str | None:
    """The table that a node reads all of: as it stands, or along an index from end to end."""
    if node["Node Type"] == "Seq Scan":
        return str(node["Relation Name"])
    index = leading.get(node.get("Index Name", ""))
    if index is None or index["leading"] in node.get("Index Cond", ""):
        return None
    return str(index["table"])


def _like(wanted: str, index: str) -> bool:
    return index.startswith(wanted[:-1]) if wanted.endswith("*") else index == wanted


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    below: Sequence[Mapping[str, Any]] = plan.get("Plans", ())
    for one in below:
        yield from _nodes(one)
