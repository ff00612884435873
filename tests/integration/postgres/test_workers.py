"""Several workers on one store: their number changes (row 42), their clocks are wrong (row 32)."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest

from eventbus import Context, EventBus, Group, Retry, Untyped, subscribe
from eventbus.memory import MemoryTransport
from eventbus.outbox import holdings
from eventbus.postgres import PostgresStorage

KEYS = [f"k{number}" for number in range(4)]
PROMPT = timedelta(milliseconds=10)


class Workers:
    """Buses that share a schema, each with its own transport: work is shared by leases alone."""

    def __init__(self, storage: PostgresStorage, *, group: Group | None = None) -> None:
        self.storage = storage
        self.published: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.table = f"{storage.config.schema}.effects"
        self.tries = 0  # of messages that ask to be tried again
        self._group = group or Group("effects")

    @asynccontextmanager
    async def running(self, amount: int) -> AsyncIterator[Sequence[EventBus]]:
        """So many more, until the block is left."""
        async with AsyncExitStack() as stack:
            buses = [self._bus(number) for number in range(amount)]
            for bus in buses:
                await stack.enter_async_context(bus)
            yield buses

    def _bus(self, number: int) -> EventBus:
        @subscribe("workers.counted", group=self._group)
        async def count(event: Untyped, ctx: Context) -> None:
            key, seq = ctx.message.key, event.data["seq"]
            if event.data.get("again") and ctx.attempt == 1:
                self.tries += 1
                raise Retry(after=timedelta(seconds=1))
            await ctx.sql.execute(f"INSERT INTO {self.table} (key, seq) VALUES ($1, $2)", key, seq)

        storage = PostgresStorage(self.storage.config)
        return EventBus(MemoryTransport(), storage=storage, handlers=[count])

    async def publish(self, key: str, stop: asyncio.Event) -> None:
        """One after the other, at most a hundred a second."""
        client = EventBus(MemoryTransport(), storage=PostgresStorage(self.storage.config))
        async with client.client():
            while not stop.is_set():
                self.published[key] += 1
                await client.publish("workers.counted", {"seq": self.published[key]}, key=key)
                await self.storage.wait("timers", at_most=PROMPT)

    async def more(self, rows: int) -> None:
        """Until so many more effects are there."""
        until = await self.amount() + rows
        while await self.amount() < until:
            await self.storage.wait("timers", at_most=PROMPT)

    async def amount(self) -> int:
        """Of effects."""
        async with self.storage.transaction() as tx:
            [row] = await tx.sql.fetch(f"SELECT count(*) AS n FROM {self.table}")
        return int(row["n"])

    async def rows(self) -> list[tuple[str, int]]:
        """Effects in the order of their transactions."""
        async with self.storage.transaction() as tx:
            found = await tx.sql.fetch(f"SELECT key, seq FROM {self.table} ORDER BY id")
        return [(row["key"], row["seq"]) for row in found]


@pytest.fixture
async def workers(storage: PostgresStorage) -> Workers:
    workers = Workers(storage)
    async with storage.transaction() as tx:
        await tx.sql.execute(
            f"CREATE TABLE {workers.table}"
            " (id bigint GENERATED ALWAYS AS IDENTITY, key text, seq int, at timestamptz"
            "  DEFAULT clock_timestamp())"
        )
    return workers


async def test_one_four_and_one_again_while_messages_are_published(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 42: partitions change hands; each message once, each key in its order."""
    monkeypatch.setattr(holdings, "RENEW_SECONDS", 0.3)  # shares are made even with each renewal
    stop = asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks, workers.running(1) as [last]:
        for key in KEYS:
            tasks.create_task(workers.publish(key, stop), name=f"client:{key}")
        await workers.more(50)
        async with workers.running(3):
            await workers.more(50)
            await _shared(workers.storage, by=4)
            await workers.more(100)
        await _shared(workers.storage, by=1)
        await workers.more(50)
        stop.set()
        while await workers.amount() < sum(workers.published.values()):
            await workers.storage.wait("timers", at_most=PROMPT)
        await last.until_idle(at_most=timedelta(seconds=30))
    by_key = defaultdict(list)
    for key, seq in await workers.rows():
        by_key[key].append(seq)
    assert by_key == {
        key: list(range(1, last_of + 1)) for key, last_of in workers.published.items()
    }


async def _shared(storage: PostgresStorage, *, by: int) -> None:
    """Until each of so many relays holds its fair share of the 64 partitions."""
    held = f"""
        SELECT count(*) AS n FROM {storage.config.schema}.leases
         WHERE starts_with(name, 'outbox/') AND until > statement_timestamp() GROUP BY owner"""
    shares: list[int] = []
    while sorted(shares) != [64 // by] * by:
        async with storage.transaction() as tx:
            shares = [row["n"] for row in await tx.sql.fetch(held)]
        await storage.wait("timers", at_most=PROMPT)


@pytest.mark.parametrize("hours", [1, -1, 72])
async def test_wrong_clocks_move_no_lease_no_delay_no_retry_and_no_retention(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Row 32: what is due is due by the database's clock; the workers' say something else."""
    storage, real, real_ns = workers.storage, time.time, time.time_ns
    schema = storage.config.schema
    async with workers.running(1) as [bus]:
        await bus.publish("workers.counted", {"seq": 1}, key="k0")
        await bus.until_idle()
        epochs = await _epochs(storage)
        monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)  # it jumps
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + hours * 3600 * 10**9)
        async with storage.transaction() as tx:
            [row] = await tx.sql.fetch("SELECT clock_timestamp() AS now")
        second = timedelta(seconds=1)
        async with bus.transaction() as unit:
            await unit.publish("workers.counted", {"seq": 2, "again": True}, key="k1")
            await unit.publish("workers.counted", {"seq": 3}, key="k2", delay=second)
        async with asyncio.timeout(30):
            while await workers.amount() < 3:
                await storage.wait("timers", at_most=PROMPT)
        assert workers.tries == 1
        assert await _epochs(storage) == epochs, "no lease was taken for run out"
        await storage.prune(inbox=timedelta(days=7), limit=1000)
        async with storage.transaction() as tx:
            kept = await tx.sql.fetch(f"SELECT DISTINCT message FROM {schema}.inbox")
            late = await tx.sql.fetch(f"SELECT at FROM {workers.table} WHERE key <> 'k0'")
    assert len(kept) == 3, "retention looks at when they were handled"
    assert all(one["at"] - row["now"] >= second for one in late), "nothing was early"


async def _epochs(storage: PostgresStorage) -> dict[str, int]:
    """Of what the relay and the redelivery hold."""
    sql = f"""
        SELECT name, epoch FROM {storage.config.schema}.leases
         WHERE starts_with(name, 'outbox/') OR starts_with(name, 'parked/')"""
    async with storage.transaction() as tx:
        return {row["name"]: row["epoch"] for row in await tx.sql.fetch(sql)}
