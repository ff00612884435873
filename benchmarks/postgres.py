"""PostgreSQL: the parts of the path that the adapter is responsible for, beside asyncpg by hand.

A native server on this machine is started if none runs (`eventbus.testing.services`). With it the
CPU time of its backends is told too: on a shared machine that and ours are what to trust.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg

from benchmarks.measure import TICKS, Clock
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus.message import Message, new_id
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.storage.leases import Lease
from eventbus.testing.services import running
from eventbus.testing.services.postgres import create_database, drop_database

BILLS = "CREATE TABLE bills (order_id text PRIMARY KEY, cents bigint NOT NULL)"
BILL = "INSERT INTO bills (order_id, cents) VALUES ($1, $2)"
HOUR = timedelta(hours=1)
HEADERS = {"time": "2026-01-02T03:04:05.678901Z", "correlationid": "x" * 36}
Admin = asyncpg.Connection


@dataclass(slots=True)
class World:
    """A database of its own, an entered storage, and what its backends have cost so far."""

    storage: PostgresStorage
    admin: "Admin[asyncpg.Record]"
    clock: Clock = field(default_factory=Clock)
    server_seconds: float = 0.0

    async def leases(self) -> Sequence[Lease]:
        """All partitions of the outbox."""
        names = [f"outbox/{number:02d}" for number in range(64)]
        async with self.storage.transaction() as tx:
            return await tx.leases.acquire(names, owner="bench", ttl=HOUR, limit=64)

    async def fill(self, amount: int) -> None:
        """Rows of the outbox."""
        for start in range(0, amount, 5000):
            async with self.storage.transaction() as tx:
                await tx.outbox.add([message(start + n) for n in range(min(5000, amount - start))])

    async def backends(self) -> float:
        """CPU seconds of the backends of this database; 0 where they run elsewhere."""
        rows = await self.admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        return sum(_cpu_of(row["pid"]) for row in rows)


Work = Callable[[World, int], Awaitable[Figures | None]]


def outbox_bar() -> Bar:
    """P1."""
    return Bar(
        name="PGOUTBOX",
        what="read and settle rows of the outbox",
        ratio_of="rate",
        cases=[
            case(
                "PGOUTBOX",
                "batches of 500",
                30_000,
                _relayed(500),
                Goal(figure="rate", at_least=50_000),
            ),
            case("PGOUTBOX", "batches of 2,000", 30_000, _relayed(2000)),
        ],
    )


def handler_bar() -> Bar:
    """P2."""
    return Bar(
        name="PGHANDLER",
        what="a consumer's batch in one transaction",
        ratio_of="ms",
        cases=[
            case("PGHANDLER", "receive 100 ids", 50, _received),
            case("PGHANDLER", "receive 50, each with savepoint and insert", 30, _handled),
        ],
    )


def business_bar() -> Bar:
    """P3."""
    goal = Goal(figure="above_ms", at_most=0.25)
    return Bar(
        name="PGBUSINESS",
        what="a business row, and an event with it; above_ms is relative to without it",
        ratio_of="rate",
        cases=[
            case("PGBUSINESS", "asyncpg by hand", 400, _by_hand),
            case("PGBUSINESS", "eventbus, no event", 400, _ours(events=0)),
            case("PGBUSINESS", "eventbus, one event", 400, _ours(events=1)),
            case("PGBUSINESS", "one event beside none, in turns", 300, _in_turns, goal),
        ],
    )


def waiting_bar() -> Bar:
    """P4."""
    return Bar(
        name="PGWAITING",
        what="reading 500 rows while so many wait",
        ratio_of="ms",
        cases=[
            case("PGWAITING", "10,000 wait", 10_000, _read_of_many),
            case("PGWAITING", "1,000,000 wait", 1_000_000, _read_of_many),
        ],
    )


BARS = {
    "PGOUTBOX": outbox_bar,
    "PGHANDLER": handler_bar,
    "PGBUSINESS": business_bar,
    "PGWAITING": waiting_bar,
}


def message(number: int) -> Message:
    """One of a thousand keys."""
    return Message(
        id=new_id(),
        type="bench.order-placed",
        source="bench",
        topic="bench",
        payload=b'{"order_id":"%d","cents":4200}' % number,
        key=f"order-{number % 1000}",
        headers=HEADERS,
    )


def case(bar: str, name: str, n: int, work: Work, goal: Goal | None = None) -> Case:
    def run(n: int) -> Figures:
        with running("postgres") as server:
            url = create_database(server.url)
            try:
                return asyncio.run(_run(url, work, n))
            finally:
                drop_database(url)

    return Case(bar=bar, name=name, n=n, run=run, goal=goal)


async def _run(url: str, work: Work, n: int) -> Figures:
    async with _world(url) as world:
        found = await work(world, n) or {}
        clock = world.clock
        costs = {"rate": n / clock.seconds, "cpu_us": clock.cpu_seconds / n * 1e6}
        if world.server_seconds:
            costs["server_cpu_us"] = world.server_seconds / n * 1e6
        return {**costs, **found, "noise": clock.noise}


@asynccontextmanager
async def _world(url: str) -> AsyncIterator[World]:
    config = PostgresConfig(dsn=url, service="bench")
    await PostgresStorage(config).upgrade()
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(BILLS)
        async with PostgresStorage(config) as storage:
            yield World(storage, admin)
    finally:
        await admin.close()


@asynccontextmanager
async def timed(world: World) -> AsyncIterator[None]:
    before = await world.backends()
    with world.clock:
        yield
    world.server_seconds = await world.backends() - before


def _relayed(batch: int) -> Work:
    async def work(world: World, n: int) -> None:
        leases = await world.leases()
        await world.fill(n)
        settled = 0
        async with timed(world):
            while settled < n:
                async with world.storage.transaction() as tx:
                    rows = await tx.outbox.read(leases, limit=batch)
                async with world.storage.transaction() as tx:
                    settled += await tx.outbox.settle(leases, rows)

    return work


async def _received(world: World, n: int) -> Figures:
    times = []
    batches = [[message(start + i) for i in range(100)] for start in range(n)]
    async with timed(world):
        for batch in batches:
            async with world.storage.transaction() as tx:
                await tx.sql.fetch("SELECT 1")  # BEGIN is not what is measured
                began = time.perf_counter()
                await tx.inbox.receive(batch, keys=[one.key or "" for one in batch], group="bench")
                times.append(time.perf_counter() - began)
    return {"ms": statistics.median(times) * 1000}


async def _handled(world: World, n: int) -> Figures:
    times = []
    batches = [[message(start * 50 + i) for i in range(50)] for start in range(n)]
    async with timed(world):
        for batch in batches:
            began = time.perf_counter()
            async with world.storage.transaction() as tx:
                await tx.inbox.receive(batch, keys=[one.key or "" for one in batch], group="bench")
                for one in batch:
                    async with tx.savepoint():
                        await tx.sql.execute(BILL, one.id, 4200)
            times.append(time.perf_counter() - began)
    return {"ms": statistics.median(times) * 1000}


async def _by_hand(world: World, n: int) -> None:
    names = [new_id() for _ in range(n)]
    async with timed(world):
        for name in names:
            async with world.admin.transaction():
                await world.admin.execute(BILL, name, 4200)


def _ours(*, events: int) -> Work:
    async def work(world: World, n: int) -> None:
        messages = [message(number) for number in range(n)]
        async with timed(world):
            for one in messages:
                await _business(world, one, events)

    return work


async def _in_turns(world: World, n: int) -> Figures:
    """Both in one run, one after the other: what disturbs one disturbs the other."""
    spent = ([0.0] * n, [0.0] * n)
    async with timed(world):
        for number in range(n):
            for events in (0, 1):
                one = message(number)
                began = time.perf_counter()
                await _business(world, one, events)
                spent[events][number] = time.perf_counter() - began
    without, with_one = (statistics.median(times) for times in spent)
    return {"ms": with_one * 1000, "above_ms": with_one / without - 1}


async def _business(world: World, one: Message, events: int) -> None:
    async with world.storage.transaction() as tx:
        await tx.sql.execute(BILL, one.id, 4200)
        await tx.outbox.add([one][:events])


async def _read_of_many(world: World, n: int) -> Figures:
    leases = await world.leases()
    await world.admin.execute(
        "INSERT INTO eventbus.outbox (part, message_id, type, source, topic, key, headers, payload)"
        " SELECT n % 64, gen_random_uuid()::text, 'bench.order-placed', 'bench', 'bench',"
        " 'order-' || n % 1000, '{}'::bytea, '{}'::bytea FROM generate_series(1, $1::int) n",
        n,
        timeout=300,
    )
    await world.admin.execute("VACUUM ANALYZE eventbus.outbox", timeout=300)
    times = []
    async with timed(world):
        for _ in range(50):
            began = time.perf_counter()
            async with world.storage.transaction() as tx:
                rows = await tx.outbox.read(leases, limit=500)
            times.append(time.perf_counter() - began)
    if len(rows) != 500:
        raise AssertionError(f"{len(rows)} rows of 500")
    return {"ms": statistics.median(times) * 1000}


def _cpu_of(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    name, _, rest = stat.rpartition(")")
    if "postgres" not in name or pid == os.getpid():
        return 0.0
    user, system = rest.split()[11:13]
    return (int(user) + int(system)) / TICKS
