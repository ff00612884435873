"""What the planner makes of statements when it knows no value: the plan that stays."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eventbus.postgres import PostgresStorage
from eventbus.postgres.pools import Role

Plan = tuple[str, Mapping[str, int], str, str, Role, set[str]]
"""Statement, its limits, types and values of its parameters, role, indexes it must go by."""


async def wrong_plans(
    storage: PostgresStorage, plans: Mapping[str, Plan], large: set[str]
) -> dict[str, tuple[str, str]]:
    """Those that read one of the large tables whole, or go by other indexes."""
    schema = storage.config.schema
    wrong: dict[str, tuple[str, str]] = {}
    for name, (statement, limits, types, values, role, wanted) in plans.items():
        sql = statement.format(schema=schema, **limits)
        taken = f"({types})" if types else ""
        given = f"({values})" if values else ""
        async with storage.pools.connecting(role) as connection:
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            await connection.execute(f"PREPARE asked {taken} AS {sql}")
            text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked {given}")
            await connection.execute("DEALLOCATE asked; RESET plan_cache_mode")
        nodes = list(_nodes(json.loads(text)[0]["Plan"]))
        indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
        scanned = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
        missing = {one for one in wanted if not any(_like(one, index) for index in indexes)}
        if missing or scanned & large:  # what is not large may be read as they like
            wrong[name] = (f"scanned {scanned}, without {missing}", text)
    return wrong


def _like(wanted: str, index: str) -> bool:
    return index.startswith(wanted[:-1]) if wanted.endswith("*") else index == wanted


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    below: Sequence[Mapping[str, Any]] = plan.get("Plans", ())
    for one in below:
        yield from _nodes(one)
