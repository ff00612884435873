"""Nothing that the log is asked reads its events or its streams whole, in functions neither.

The server counts scans of whole tables. `EVENTBUS_FAULTS=full` asks a log of 1,000,000 events.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from eventbus.postgres import PostgresConfig, PostgresStorage, feed
from eventbus.storage import verdicts
from eventbus.storage.events import Append, Filter, Position, Snapshot
from eventbus.testing.conformance.samples import some_messages
from tests.conformance.postgres import database

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
STREAMS = 100_000 if FULL else 10_000
EVENTS = 10  # of a stream
WINDOW = STREAMS * EVENTS // 10  # of a page: with 1,000,000 events as it is
PAGE = 100  # events; they lie on some ten pages of the disk, those of the window on hundreds
LARGE = ("events_0", "streams")
SCHEMA = "log_plans"

pytestmark = pytest.mark.timeout(600 if FULL else 120)

FILL = f"""
INSERT INTO streams (version, floor_pos, tenant, name, category)
  SELECT {EVENTS}, 1, '', 'order-' || n, 'order' FROM generate_series(1, {STREAMS}) n;
INSERT INTO events (position, stream_id, version, event_id, schema_version, type, tenant, stream,
                    data, meta)
  SELECT nextval('position_seq'), stream_id, version, gen_random_uuid(), 1,
         'shop.kind-' || stream_id % 1000, '', name, '{{}}',
         '{{"source":"s","topic":"shop","headers":{{}}}}'
    FROM (SELECT stream_id, v AS version, name FROM generate_series(1, {EVENTS}) v, streams
           ORDER BY v, stream_id) e;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(params=["analysed", "never analysed"])
async def filled(server: str, request: pytest.FixtureRequest) -> AsyncIterator[PostgresStorage]:
    """Not entered: its connections are not there yet."""
    storage = PostgresStorage(PostgresConfig(dsn=server, schema=SCHEMA))
    await storage.upgrade()
    connection = await asyncpg.connect(server, timeout=10)
    try:
        await connection.execute(f"SET search_path = {SCHEMA}; {FILL}", timeout=300)
        if request.param == "analysed":
            await connection.execute("ANALYZE", timeout=300)
        yield storage
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    finally:
        await connection.close()


async def scans(url: str) -> dict[str, int]:
    """How often a table was read whole, as told by connections that are closed."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        rows = await connection.fetch(
            "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = $1", SCHEMA
        )
    finally:
        await connection.close()
    found = {row["relname"]: row["seq_scan"] for row in rows}
    return {name: found[name] for name in LARGE}


async def test_no_question_reads_the_log_whole(
    server: str, filled: PostgresStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "WINDOW", WINDOW)
    before = await scans(server)
    async with filled as storage:
        await append(storage)
        await read(storage)
        await live(storage)
    assert await scans(server) == before


async def test_a_page_of_the_log_costs_what_it_shows(server: str, filled: PostgresStorage) -> None:
    """By the plan that stays, which knows no position: it must not read, and sort, the window."""
    connection = await asyncpg.connect(server, timeout=10)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for only in (Filter(), Filter(tenant=""), Filter(category="order"), Filter(share=(1, 2))):
            conditions, values = feed._conditions(only)
            page = feed._FEED.format(schema=SCHEMA, only=conditions, limit=PAGE)
            types = ", ".join(["bigint", "bigint", *("text" for _ in values)])
            await connection.execute(f"PREPARE page ({types}) AS {page}")
            asked = ", ".join(["0", f"{WINDOW}", *(f"'{value}'" for value in values)])
            text = await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page ({asked})"
            )
            await connection.execute("DEALLOCATE page")
            plan = json.loads(text)[0]["Plan"]
            assert plan["Actual Rows"] == PAGE
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGE, (only, text)
    finally:
        await connection.close()


async def append(storage: PostgresStorage) -> None:
    """Alone, merged, in a transaction, once more, loaded."""

    def one(name: str, expected: int, amount: int = 1) -> Append:
        return Append(stream=name, messages=some_messages(amount), expected=expected)

    again = one("order-1", EVENTS, 2)
    await storage.append(again)
    assert (await storage.append(again)).repeated
    whatever = Append(stream="order-2", messages=some_messages(1), expected="any")
    await storage.append(whatever)
    assert (await storage.append(whatever)).repeated
    await asyncio.gather(
        *(storage.append(one(f"order-{number}", EVENTS)) for number in range(10, 40))
    )
    async with storage.transaction() as tx:
        await tx.events.append(one("order-50", EVENTS), conflicting=True)
    await storage.load_events([one(f"new-{number}", 0, 3) for number in range(20)], skip=True)


async def read(storage: PostgresStorage) -> None:
    """Streams and the feed, by each filter."""
    last = (await storage.read_bound()).bound
    async with storage.transaction() as tx:
        found = await tx.events.read_stream("order-7", backwards=True, limit=1)
        await tx.events.read_stream("order-7", after=3, before=6, until=datetime.now(UTC))
        snapshot = Snapshot(
            kind="k", schema_hash=b"h", version=9, position=found[0].position, state=b"{}"
        )
        await tx.events.save_snapshot("order-7", snapshot)
        for kind in ("k", "other"):
            loaded = await tx.events.load("order-7", kind=kind, schema_hash=b"h")
            assert loaded.version == EVENTS
        filters = [
            Filter(),
            Filter(types=("shop.kind-7",)),
            Filter(category="order"),
            Filter(category="none"),
            Filter(tenant="t1"),
            Filter(streams=("order-7", "order-8")),
            Filter(share=(1, 4)),
        ]
        for only in filters:
            for after in (Position(0), Position(last // 2), Position(last - 10)):
                await tx.events.read_all(after=after, limit=100, only=only)
        assert await tx.events.holders() == []


async def live(storage: PostgresStorage) -> None:
    """Noted on, cut, closed, deleted in time."""
    async with storage.transaction() as tx:
        assert await tx.events.head("order-3") is not None
        await tx.events.note("order-3", {"shelf": "7"})
        assert await tx.events.truncate("order-3", before=5)
        assert await tx.events.close("order-4", state="archived")
        assert await tx.events.close("order-5", state="tombstoned")
    assert await storage.prune(inbox=timedelta(days=7), limit=1000)
    await storage.inspection.figures()
