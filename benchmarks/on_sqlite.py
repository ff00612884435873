"""The whole path on SQLite: outbox, relay, inbox, a handler with one write, all durable."""

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from benchmarks.in_memory import Count, measured
from benchmarks.measure import Clock
from benchmarks.message import OrderFields, OrderPlaced, orders, raw_orders
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import Context, EventBus, subscribe
from eventbus.message import new_id

BILLS = "CREATE TABLE bills (order_id text PRIMARY KEY, currency text NOT NULL)"
BILL = "INSERT INTO bills (order_id, currency) VALUES ($1, $2)"
BATCH = 100
N = 20_000


def bar() -> Bar:
    """Ours beside the same statements by hand, each run on a new database."""
    goal = Goal(figure="rate", at_least=5_000)
    hand = "sqlite3 by hand"
    return Bar(
        name="SQLITE",
        what="outbox, relay, inbox, one write; FULL",
        ratio_of="rate",
        cases=[
            _case(f"{hand}, a commit per {BATCH} messages", N, _by_hand(BATCH)),
            _case(f"{hand}, a commit per message", 2_000, _by_hand(1)),
            _case(f"eventbus on a file, published {BATCH} per commit", N, _in_batches, goal),
            _case("eventbus on a file, 100 tasks that publish", N, _by_tasks),
            _case(
                f"eventbus on sqlite://, published {BATCH} per commit",
                N,
                _in_batches,
                url="sqlite://",
            ),
        ],
    )


Work = Callable[[int, Clock, str], Awaitable[None]]


def _case(
    name: str, n: int, work: Work, goal: Goal | None = None, url: str = "sqlite:///{file}"
) -> Case:
    def run(n: int) -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            place = url.format(file=Path(folder) / "bench.db")
            return measured(lambda n, clock: work(n, clock, place))(n)

    return Case(bar="SQLITE", name=name, n=n, run=run, goal=goal)


async def _in_batches(n: int, clock: Clock, url: str) -> None:
    async def publish(bus: EventBus, events: Sequence[OrderPlaced]) -> None:
        for start in range(0, n, BATCH):
            async with bus.transaction() as tx:
                for event in events[start : start + BATCH]:
                    await tx.publish(event)

    await _ours(n, clock, url, publish)


async def _by_tasks(n: int, clock: Clock, url: str) -> None:
    async def publish(bus: EventBus, events: Sequence[OrderPlaced]) -> None:
        waiting = iter(events)

        async def work() -> None:
            for event in waiting:
                await bus.publish(event)

        await asyncio.gather(*(work() for _ in range(100)))

    await _ours(n, clock, url, publish)


async def _ours(
    n: int,
    clock: Clock,
    url: str,
    publish: Callable[[EventBus, Sequence[OrderPlaced]], Awaitable[None]],
) -> None:
    count = Count(n)

    @subscribe(OrderPlaced, group="bench")
    async def bill(event: OrderPlaced, ctx: Context) -> None:
        await ctx.sql.execute(BILL, event.order_id, event.currency)
        count.one()

    events = orders(n)
    async with EventBus("memory://", storage=url, handlers=[bill]) as bus:
        async with bus.transaction() as tx:
            await tx.sql.execute(BILLS)
        with clock:
            await publish(bus, events)
            await count.all.wait()
            await bus.until_idle(at_most=timedelta(minutes=5))
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch("SELECT count(*) AS bills FROM bills")
    if rows[0]["bills"] != n:
        raise AssertionError(f"{rows[0]['bills']} bills of {n} orders")


def _by_hand(size: int) -> Work:
    """The same rows in the best way: two commits per batch, nothing read twice."""

    async def work(n: int, clock: Clock, url: str) -> None:
        models = raw_orders(n)
        with closing(_connection(url.removeprefix("sqlite:///"))) as db:
            with clock:
                for start in range(0, n, size):
                    _publish_by_hand(db, models[start : start + size])
                    _handle_by_hand(db, size)
            bills = db.execute("SELECT count(*) FROM bills").fetchone()[0]
        if bills != n:
            raise AssertionError(f"{bills} bills of {n} orders")

    return work


def _connection(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "CREATE TABLE outbox (seq integer PRIMARY KEY, id text NOT NULL, type text NOT NULL,"
        " topic text NOT NULL, key text, payload blob NOT NULL, headers text NOT NULL)"
    )
    db.execute(
        "CREATE TABLE inbox (grp text, id text, PRIMARY KEY (grp, id)) WITHOUT ROWID",
    )
    db.execute(BILLS)
    return db


def _publish_by_hand(db: sqlite3.Connection, models: Sequence[OrderFields]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(
        "INSERT INTO outbox (id, type, topic, key, payload, headers) VALUES (?, ?, ?, ?, ?, ?)",
        _rows(models),
    )
    db.execute("COMMIT")


def _rows(models: Sequence[OrderFields]) -> Iterator[tuple[object, ...]]:
    for model in models:
        name = new_id()
        headers = json.dumps({"time": "2026-01-02T03:04:05.678901Z", "correlationid": name})
        payload = model.model_dump_json().encode()
        yield name, "bench.order-placed", "bench", str(model.order_id), payload, headers


def _handle_by_hand(db: sqlite3.Connection, size: int) -> None:
    rows = db.execute(
        "SELECT seq, id, type, topic, key, payload, headers FROM outbox ORDER BY seq LIMIT ?",
        (size,),
    ).fetchall()
    models = [OrderFields.model_validate_json(row[5]) for row in rows]
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO inbox VALUES ('bench', ?)", [(row[1],) for row in rows])
    for model in models:
        db.execute(
            "INSERT INTO bills (order_id, currency) VALUES (?, ?)",
            (str(model.order_id), model.currency),
        )
    db.executemany("DELETE FROM outbox WHERE seq = ?", [(row[0],) for row in rows])
    db.execute("COMMIT")
