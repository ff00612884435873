"""Row 54: nothing is pruned. What a claim, a duplicate check or a retry reads does not grow."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus.postgres import PostgresStorage
from tests.conformance.postgres import database, entered
from tests.integration.postgres.test_plans import FILL, PLANS, ROWS

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
LONG_SECONDS = 900
LARGE = 1_000_000 if FULL else ROWS
SMALL = LARGE // 10
ASKED = ("outbox.read", "inbox.look", "inbox.count", "parking.due", "parking.behind")
DEEPER = 2  # pages more: a level of each index that a row is looked up in

pytestmark = pytest.mark.timeout(2 * LONG_SECONDS if FULL else 120)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


async def test_ten_times_the_rows_cost_no_more_pages(server: str) -> None:
    """Pages, not time: with ten times the rows an index may be a level deeper."""
    async with entered(server, schema="few") as few, entered(server, schema="many") as many:
        small, large = await _pages(few, SMALL), await _pages(many, LARGE)
    assert small.keys() == large.keys() == {*ASKED, "inbox.receive"}
    assert {
        name: (small[name], pages)
        for name, pages in large.items()
        if pages > DEEPER * max(small[name], 1)
    } == {}


async def _pages(storage: PostgresStorage, rows: int) -> dict[str, int]:
    """By statement, of 50 messages or one key: shared buffers that it touches."""
    schema = storage.config.schema
    fill = FILL.replace(str(ROWS), str(rows))
    async with storage.pools.connecting("control") as connection:
        patient = f"SET search_path = {schema}; SET statement_timeout = 0"
        await connection.execute(f"{patient}; {fill}", timeout=LONG_SECONDS)
        await connection.execute("VACUUM ANALYZE", timeout=LONG_SECONDS)
        await connection.execute("RESET search_path; RESET statement_timeout")
        asked = {"inbox.receive": _receive(schema)}
        for name in ASKED:
            statement, limits, types, values, _, _ = PLANS[name]
            await connection.execute(
                f"PREPARE {_named(name)} ({types}) AS {statement.format(schema=schema, **limits)}"
            )
            asked[name] = f"EXECUTE {_named(name)} ({values})"
        pages = {name: await _touched(connection, sql) for name, sql in asked.items()}
        await connection.execute("DEALLOCATE ALL")
    return pages


def _receive(schema: str) -> str:
    ids = "ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 50))"
    days = "array_fill(current_date, ARRAY[50])"
    keys = "ARRAY(SELECT 'k' || n FROM generate_series(1, 50) n)"
    return f"SELECT * FROM {schema}.receive('g', {ids}, {days}, {keys})"


async def _touched(connection: Any, sql: str) -> int:
    """The second time: the first one also reads the catalogue."""
    for _ in range(2):
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
    plan = json.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def _named(statement: str) -> str:
    return statement.replace(".", "_")
