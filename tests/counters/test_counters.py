"""Statements and commits per 1,000 messages, publish to handled: a gate where clocks would lie."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from eventbus import Context, Event, EventBus, Group, subscribe
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage

MESSAGES = 1_000
BOUNDS: dict[str, dict[str, int]] = json.loads(
    Path(__file__).with_name("counters.json").read_text(encoding="utf-8")
)


class Placed(Event, type="counters.placed", key="order"):
    order: str


@subscribe(Placed, group=Group("billing"))
async def bill(event: Placed, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO bills (id) VALUES ($1)", event.order)


@asynccontextmanager
async def counted_on_sqlite(storage: SqliteStorage, counts: Counter[str]) -> AsyncIterator[None]:
    def note(statement: str) -> None:
        counts[statement.split(maxsplit=1)[0].upper()] += 1

    storage._worker.connection.set_trace_callback(note)
    yield
    storage._worker.connection.set_trace_callback(None)


async def flow(storage: Storage, counting: Any, counts: Counter[str]) -> None:
    """1,000 messages in ten transactions, relayed, received, one INSERT each."""
    bus = EventBus("memory://", storage=storage, handlers=[bill])
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE bills (id text)")
    async with bus:
        await bus.until_idle()
        async with counting(storage, counts):
            for batch in range(10):
                async with bus.transaction() as tx:
                    for number in range(MESSAGES // 10):
                        await tx.publish(Placed(order=f"{batch}-{number}"))
            await bus.until_idle(at_most=timedelta(seconds=60))
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch("SELECT count(*) AS n FROM bills")
    assert rows[0]["n"] == MESSAGES


async def test_a_message_costs_no_more_statements_and_commits_on_sqlite(
    record_property: Any,
) -> None:
    counts: Counter[str] = Counter()
    await flow(SqliteStorage(), counted_on_sqlite, counts)
    found = {"statements": counts.total(), "commits": counts["COMMIT"]}
    record_property("counters", found)
    assert all(found[name] <= bound for name, bound in BOUNDS["sqlite"].items()), (found, counts)
