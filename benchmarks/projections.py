"""Projections on PostgreSQL: following the log, and a rebuild, beside the same by hand.

By hand is asyncpg, orjson and a dict, in the pages and the statements that ours sends: what a
typed event, a pydantic row and a checked value cost on top is the ratio.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import asyncpg
import orjson

from benchmarks.postgres import World, case, timed
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import Event, EventBus
from eventbus.codec import Encoder
from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sourcing.rebuild import Beat, Options
from eventbus.storage.events import Append, Position

PER_KEY = 5
APPENDED = 1000
PAGE = 2000
APPENDS_PER_SECOND = 5000
LONG = timedelta(minutes=5)


class Sold(Event, type="bench.sold", key="product"):
    order: str
    product: str
    cents: int


class Product(ReadModel, table="products", key="product"):
    product: str
    sold: int = 0
    cents: int = 0
    last: str = ""


class Products(FoldingProjection[Product], name="products"):
    """Four columns, one row for five events."""

    @projects(Sold, key=lambda event: event.product)
    def sold(self, row: Product, event: Sold) -> Product:
        return row.model_copy(
            update={
                "sold": row.sold + 1,
                "cents": row.cents + event.cents,
                "last": event.order,
            }
        )


def following_bar() -> Bar:
    """Rows that follow."""
    goal = Goal(figure="rate", at_least=30_000, where_base=70_000)
    return Bar(
        name="FOLLOW",
        what="follow so many events into a fifth as many rows, one worker",
        ratio_of="rate",
        cases=[
            case("FOLLOW", "asyncpg by hand, dict", 60_000, _by_hand),
            case("FOLLOW", "following", 60_000, _following, goal),
            *_peer(),
        ],
    )


def lag_bar() -> Bar:
    """How far rows are behind while so many events a second are recorded."""
    return Bar(
        name="LAG",
        what="ms from an append's answer to its row, at 5,000 appends a second",
        ratio_of="p99_ms",
        cases=[case("LAG", "following", 20_000, _lagging, Goal(figure="p99_ms", at_most=250))],
    )


BARS = {"FOLLOW": following_bar, "LAG": lag_bar}


def _peer() -> list[Case]:
    """Beside the `eventsourcing` library's runner, where it is installed."""
    if find_spec("eventsourcing") is None:
        return []
    from benchmarks.eventsourcing_projection import rate_of_runner

    async def work(world: World, n: int) -> Figures:
        """In turns: what disturbs one disturbs the other."""
        before = await rate_of_runner(world, n // 20, PER_KEY)
        position = await _fill(world, n)
        began = time.perf_counter()
        async with _bus(world) as bus, timed(world):
            await bus.projections.wait("products", position, at_most=LONG)
            rate = n / (time.perf_counter() - began)
        return {"rate": rate, "times": rate / before}

    name = "following, times the rate of eventsourcing's runner over a twentieth as many"
    return [case("FOLLOW", name, 60_000, work, Goal(figure="times", at_least=10))]


async def _fill(world: World, n: int) -> Position:
    encoder = Encoder("/bench", max_body=1 << 20)
    position = Position(0)
    for start in range(0, n, APPENDED):
        messages = [
            _message(encoder, number, n) for number in range(start, min(n, start + APPENDED))
        ]
        async with world.storage.transaction() as tx:
            done = await tx.events.append(
                Append(stream=f"sold-{start}", messages=messages, expected="absent")
            )
        position = done.position
    return position


def _message(encoder: Encoder, number: int, n: int) -> Message:
    product = f"product-{number * 7919 % (n // PER_KEY)}"
    event = Sold(order=f"order-{number}", product=product, cents=number % 1000)
    return encoder.typed(event, {}, None)


def _bus(world: World) -> EventBus:
    storage = PostgresStorage(world.storage.config)
    return EventBus("memory://", storage=storage, handlers=[Products])


async def _following(world: World, n: int) -> None:
    position = await _fill(world, n)
    bus = _bus(world)
    async with timed(world), bus:
        await bus.projections.wait("products", position, at_most=LONG)
    await _check(world, n)


async def _lagging(world: World, n: int) -> Figures:
    """Appends begin on time, whatever the earlier ones do; each hundredth is waited for."""
    bus, loop = _bus(world), asyncio.get_running_loop()
    lags: list[float] = []

    async def one(number: int) -> None:
        event = Sold(order=f"order-{number}", product=f"product-{number % 997}", cents=1)
        done = await bus.events.append(f"sold-{number}", [event], expected="absent", publish=False)
        if number % 100 == 0:
            answered = loop.time()
            await bus.projections.wait("products", done.position, at_most=LONG)
            lags.append((loop.time() - answered) * 1000)

    async with bus:
        await one(n)  # the tables are there
        lags.clear()
        async with timed(world), asyncio.TaskGroup() as tasks:
            began = loop.time()
            for number in range(n):
                await asyncio.sleep(max(0.0, began + number / APPENDS_PER_SECOND - loop.time()))
                tasks.create_task(one(number))
    lags.sort()
    return {"p50_ms": lags[len(lags) // 2], "p99_ms": lags[len(lags) * 99 // 100]}


def rebuilt(parts: int) -> Any:
    """By one process, in so many parts one after the other."""

    async def work(world: World, n: int) -> Figures:
        position = await _fill(world, n)
        bus = _bus(world)
        async with bus:
            await bus.projections.wait("products", position, at_most=LONG)
        began: dict[str, float] = {}

        def note(beat: Beat) -> None:
            began.setdefault(beat.phase, time.perf_counter())

        async with bus.client(), timed(world):
            rebuilt = await bus.projections.rebuild(
                "products", options=Options(parts=parts, require_equal=True), beat=note
            )
        assert rebuilt.difference.equal == n // PER_KEY
        caught_up = began["verify"] - began["plan"]
        return {
            "rate": n / caught_up,
            "ms": caught_up * 1000,
            "above_ms": (began["done"] - began["verify"]) * 1000,
        }

    return work


async def _by_hand(world: World, n: int) -> None:
    await _fill(world, n)
    await world.admin.execute(
        "CREATE TABLE by_hand (product text PRIMARY KEY, sold bigint, cents bigint, last text);"
        " CREATE TABLE stands (at bigint); INSERT INTO stands VALUES (0)"
    )
    async with timed(world):
        at = 0
        while rows := await _page(world.admin, at, PAGE):
            after = rows[-1]["position"]
            async with world.admin.transaction():
                await world.admin.execute("UPDATE stands SET at = $2 WHERE at = $1", at, after)
                keys = list({orjson.loads(row["data"])["product"] for row in rows})
                states = await world.admin.fetch(
                    "SELECT * FROM by_hand WHERE product = ANY($1::text[])", keys
                )
                folded = _folded(rows, {row["product"]: list(row)[1:] for row in states})
                columns = [list(folded), *(list(one) for one in zip(*folded.values(), strict=True))]
                await world.admin.execute(
                    "INSERT INTO by_hand SELECT * FROM unnest($1::text[], $2::bigint[],"
                    " $3::bigint[], $4::text[]) ON CONFLICT (product) DO UPDATE"
                    " SET sold = excluded.sold, cents = excluded.cents, last = excluded.last",
                    *columns,
                )
            at = after


async def copied_by_hand(world: World, n: int) -> None:
    """Pages of 5,000, a dict, one COPY."""
    await _fill(world, n)
    await world.admin.execute(
        "CREATE TABLE by_hand (product text PRIMARY KEY, sold bigint, cents bigint, last text)"
    )
    async with timed(world):
        at, states = 0, dict[str, list[Any]]()
        while rows := await _page(world.admin, at, 5000):
            states = _folded(rows, states)
            at = rows[-1]["position"]
        records = [(key, *row) for key, row in states.items()]
        await world.admin.copy_records_to_table("by_hand", records=records)


async def _page(admin: "asyncpg.Connection[Any]", after: int, limit: int) -> Any:
    return await admin.fetch(
        f"SELECT position, data FROM eventbus.events WHERE position > $1"
        f" ORDER BY position LIMIT {limit:d}",
        after,
    )


def _folded(rows: Any, states: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    folded = dict(states)
    for row in rows:
        event = orjson.loads(row["data"])
        state = folded.setdefault(event["product"], [0, 0, ""])
        state[0] += 1
        state[1] += event["cents"]
        state[2] = event["order"]
    return folded


async def _check(world: World, n: int) -> None:
    sold = await world.admin.fetchval("SELECT sum(sold) FROM products")
    assert sold == n
