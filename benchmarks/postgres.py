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
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import asyncpg

from benchmarks.measure import TICKS, Clock
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import Context, EventBus, Group, Untyped, subscribe
from eventbus.memory import MemoryTransport
from eventbus.message import Message, new_id
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.storage.leases import Lease
from eventbus.testing.services import running
from eventbus.testing.services.postgres import create_database, drop_database

_OUTBOX = """
SELECT part, id, message_id, type, source, topic, key, headers, payload FROM eventbus.outbox
 WHERE (part, id) > ($1, $2::bigint) ORDER BY part, id LIMIT 2000"""
_DONE = """
DELETE FROM eventbus.outbox o USING unnest($1::smallint[], $2::bigint[]) d(part, id)
 WHERE o.part = d.part AND o.id = d.id"""
BILLS = "CREATE TABLE bills (order_id text PRIMARY KEY, cents bigint NOT NULL)"
BILL = "INSERT INTO bills (order_id, cents) VALUES ($1, $2)"
SEEN = "INSERT INTO seen (message) VALUES ($1) ON CONFLICT DO NOTHING"
HOUR = timedelta(hours=1)
BATCH, ROUNDS = 50, 4
HEADERS = {"time": "2026-01-02T03:04:05.678901Z", "correlationid": "x" * 36}
Admin = asyncpg.Connection


@dataclass(slots=True)
class World:
    """A database of its own, an entered storage, and what its backends have cost so far."""

    storage: PostgresStorage
    admin: "Admin[asyncpg.Record]"
    clock: Clock = field(default_factory=Clock)
    server_seconds: float = 0.0

    async def fill(self, amount: int) -> None:
        """Rows of the outbox."""
        for start in range(0, amount, 5000):
            async with self.storage.transaction() as tx:
                await tx.outbox.add([message(start + n) for n in range(min(5000, amount - start))])

    async def backends(self) -> float:
        """CPU seconds of the backends of this database; 0 where they run elsewhere."""
        rows = await self.admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        )
        return sum(_cpu_of(row["pid"]) for row in rows)


Work = Callable[[World, int], Awaitable[Figures | None]]


def outbox_bar() -> Bar:
    """P1: a relay reads by 500, and by 2,000 while so many wait, which is when a rate counts."""
    return Bar(
        name="PGOUTBOX",
        what="read and settle rows of the outbox",
        ratio_of="rate",
        cases=[
            case(
                "PGOUTBOX", "asyncpg by hand, batches of 2,000, no lease", 30_000, _relayed_by_hand
            ),
            case("PGOUTBOX", "batches of 500", 30_000, _relayed(500)),
            case(
                "PGOUTBOX",
                "batches of 2,000",
                30_000,
                _relayed(2000),
                Goal(figure="rate", at_least=50_000, where_base=110_000),
            ),
        ],
    )


def handler_bar() -> Bar:
    """P2."""
    cheap = Goal(figure="cpu_us", at_most=40)
    in_turns = "inbox and insert: a consumer beside a transaction per message by hand, in turns"
    return Bar(
        name="PGHANDLER",
        what="a consumer's batch in one transaction; times: the rate of one each by hand",
        ratio_of="ms",
        cases=[
            case("PGHANDLER", "receive ids in batches of 50", 5_000, _received, cheap),
            case("PGHANDLER", "receive 50, each with savepoint and insert", 1_500, _handled),
            case("PGHANDLER", in_turns, 4_000, _consumed, Goal(figure="times", at_least=3)),
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
            case(
                "PGWAITING",
                "1,000,000 beside 10,000, in turns",
                1_000_000,
                _read_in_turns,
                Goal(figure="times", at_most=2),
            ),
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


def case(
    bar: str, name: str, n: int, work: Work, goal: Goal | None = None, *, commit_ms: int = 0
) -> Case:
    """A run in a database of its own.

    Args:
        commit_ms: every commit takes so much longer, as on a slower disk.
    """

    def run(n: int) -> Figures:
        with running("postgres") as server:
            url = create_database(server.url)
            try:
                if commit_ms:
                    asyncio.run(_delay_commits(url, commit_ms))
                return asyncio.run(_run(url, work, n))
            finally:
                drop_database(url)

    return Case(bar=bar, name=name, n=n, run=run, goal=goal)


async def _delay_commits(url: str, commit_ms: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        for setting in (f"commit_delay = {commit_ms * 1000}", "commit_siblings = 0"):
            await connection.execute(f"ALTER DATABASE {database} SET {setting}")
    finally:
        await connection.close()


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
        leases = await leases_of(world.storage)
        await world.fill(n)
        settled = 0
        async with timed(world):
            while settled < n:
                async with world.storage.transaction() as tx:
                    rows = await tx.outbox.read(leases, limit=batch)
                async with world.storage.transaction() as tx:
                    settled += await tx.outbox.settle(leases, rows)

    return work


async def _relayed_by_hand(world: World, n: int) -> None:
    """One reader, one partition after the other, no fence, and nothing is made of the rows."""
    await world.fill(n)
    part, last, left = 0, 0, n
    async with timed(world):
        while left:
            rows = await world.admin.fetch(_OUTBOX, part, last)
            places = [row["part"] for row in rows], [row["id"] for row in rows]
            done = await world.admin.execute(_DONE, *places)
            part, last = rows[-1]["part"], rows[-1]["id"]
            left -= int(done.removeprefix("DELETE "))


async def _received(world: World, n: int) -> Figures:
    times = []
    batches = [[message(start + i) for i in range(BATCH)] for start in range(0, n, BATCH)]
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
    batches = [[message(start + i) for i in range(BATCH)] for start in range(0, n, BATCH)]
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


@subscribe("bench.order-placed", group=Group("bench", lanes=1, batch_messages=BATCH))
async def bill(event: Untyped, ctx: Context) -> None:
    """One write per message."""
    await ctx.sql.execute(BILL, ctx.message.id, 4200)


async def _consumed(world: World, n: int) -> Figures:
    """One connection each; the transport in the process, so that it is the database that counts."""
    await world.admin.execute("CREATE TABLE seen (message text PRIMARY KEY)")
    transport, spent = MemoryTransport(), ([0.0], [0.0])
    storage = PostgresStorage(world.storage.config)
    async with EventBus(transport, storage=storage, handlers=[bill], service="bench") as bus:
        await bus.until_idle()
        async with timed(world):
            for start in range(0, n, n // ROUNDS):
                messages = [message(start + i) for i in range(n // ROUNDS)]
                began = time.perf_counter()
                for one in messages:
                    async with world.admin.transaction():
                        await world.admin.execute(SEEN, one.id)
                        await world.admin.execute(BILL, f"hand-{one.id}", 4200)
                spent[0].append(time.perf_counter() - began)
                began = time.perf_counter()
                await transport.publish(messages)
                await bus.until_idle()
                spent[1].append(time.perf_counter() - began)
    bills = await world.admin.fetchval("SELECT count(*) FROM bills")
    if bills != 2 * n:
        raise AssertionError(f"{bills} bills of {2 * n}")
    by_hand, ours = map(sum, spent)
    return {"rate": n / ours, "times": by_hand / ours}


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
    leases = await _waiting(world, world.storage, n)
    async with timed(world):
        times = [await _read(world.storage, leases) for _ in range(50)]
    return {"ms": statistics.median(times) * 1000}


async def _read_in_turns(world: World, n: int) -> Figures:
    """Two stores in one database: what disturbs one disturbs the other."""
    config = replace(world.storage.config, schema="few")
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as few:
        of_few = await _waiting(world, few, 10_000)
        of_many = await _waiting(world, world.storage, n)
        async with timed(world):
            times = [
                (await _read(few, of_few), await _read(world.storage, of_many)) for _ in range(100)
            ]
    short, long = (statistics.median(each) for each in zip(*times, strict=True))
    return {"ms": long * 1000, "times": long / short}


async def _waiting(world: World, storage: PostgresStorage, n: int) -> Sequence[Lease]:
    outbox = f"{storage.config.schema}.outbox"
    await world.admin.execute(
        f"INSERT INTO {outbox} (part, message_id, type, source, topic, key, headers, payload)"
        " SELECT n % 64, gen_random_uuid()::text, 'bench.order-placed', 'bench', 'bench',"
        " 'order-' || n % 1000, '{}'::bytea, '{}'::bytea FROM generate_series(1, $1::int) n",
        n,
        timeout=300,
    )
    await world.admin.execute(f"VACUUM ANALYZE {outbox}", timeout=300)
    return await leases_of(storage)


async def _read(storage: PostgresStorage, leases: Sequence[Lease]) -> float:
    """Seconds."""
    began = time.perf_counter()
    async with storage.transaction() as tx:
        rows = await tx.outbox.read(leases, limit=500)
    if len(rows) != 500:
        raise AssertionError(f"{len(rows)} rows of 500")
    return time.perf_counter() - began


async def leases_of(storage: PostgresStorage) -> Sequence[Lease]:
    """All partitions of its outbox."""
    names = [f"outbox/{number:02d}" for number in range(64)]
    async with storage.transaction() as tx:
        return await tx.leases.acquire(names, owner="bench", ttl=HOUR, limit=64)


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
