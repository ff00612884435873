"""A killed server that had not written everything: its log goes back, and positions come again."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from shutil import rmtree

import asyncpg
import pytest

from eventbus import Event, EventBus
from eventbus.errors import ConcurrencyError, SourcingError, StorageError
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.sourcing import FoldingProjection, Position, ReadModel, projects
from eventbus.testing.services import PostgresServer, ServiceMissingError, private_postgres

# Nothing but a checkpoint of ours writes the log of the server within a round.
LAZY = {
    "synchronous_commit": "off",
    "wal_writer_delay": "10s",
    "bgwriter_lru_maxpages": "0",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
ROUNDS = 10  # a machine that stands still for 10 s writes after all
DRAWN = 200  # positions; the server notes 32 at a time


class Placed(Event, type="rewound.placed", key="order"):
    order: str


class Order(ReadModel, table="rewound_orders", key="order"):
    order: str
    times: int = 0


class Orders(FoldingProjection[Order], name="rewound_orders"):
    @projects(Placed, key=lambda event: event.order)
    def placed(self, row: Order, event: Placed) -> Order:
        return row.model_copy(update={"times": row.times + 1})


@dataclass
class Follower:
    """What a subscription got, and how it ended."""

    orders: list[str] = field(default_factory=list[str])
    error: SourcingError | None = None

    async def follow(self, bus: EventBus) -> None:
        try:
            async with aclosing(bus.events.subscribe()) as events:
                async for one in events:
                    if isinstance(one.event, Placed):
                        self.orders.append(one.event.order)
        except SourcingError as error:
            self.error = error


@dataclass
class Shop:
    """A bus on a server of its own, and who follows its log."""

    server: PostgresServer
    bus: EventBus
    storage: PostgresStorage
    follower: Follower

    async def place(self, order: str) -> None:
        """Asked again until the server is back."""
        async with asyncio.timeout(60):
            while True:
                with suppress(StorageError):
                    await self.append(order)
                    return
                await self.moment()

    async def append(self, order: str) -> None:
        with suppress(ConcurrencyError):
            event = Placed(order=order)
            await self.bus.events.append(
                f"order-{order}", [event], expected="absent", publish=False
            )

    async def draw_and_roll_back(self) -> None:
        with suppress(LookupError):
            async with self.bus.transaction() as tx:
                events = [Placed(order="never")] * 1
                for number in range(DRAWN):
                    await tx.append(f"never-{number}", events, expected="absent", publish=False)
                raise LookupError

    async def written(self) -> None:
        """Everything so far survives a crash."""
        connection = await asyncpg.connect(self.server.url)
        await connection.execute("CHECKPOINT")
        await connection.close()

    async def crash(self) -> None:
        await self.server.kill()
        await self.server.start()

    async def head(self) -> Position:
        async with asyncio.timeout(60):
            while True:
                with suppress(StorageError):
                    return (await self.storage.read_bound()).head
                await self.moment()

    async def times(self, order: str) -> int:
        with suppress(StorageError):
            row = await self.bus.projections.get("rewound_orders", order)
            return 0 if row is None else int(row.model_dump()["times"])
        return -1

    async def projected(self, order: str) -> None:
        async def is_there() -> bool:
            return await self.times(order) == 1

        await self.until(is_there)

    async def ended_without(self, event: str) -> None:
        """The subscription says which event is not in the log any more."""

        async def ended() -> bool:
            return self.follower.error is not None

        await self.until(ended)
        assert self.follower.error is not None
        assert self.follower.error.code == "EB4207"
        assert event in str(self.follower.error)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(60):
            while not await holds():
                await self.moment()

    async def moment(self) -> None:
        with suppress(StorageError):
            await self.storage.wait("events", at_most=timedelta(milliseconds=50))

    async def seen(self, order: str) -> None:
        """By the subscription and by the projection."""

        async def by_both() -> bool:
            followed = order in self.follower.orders or self.follower.error is not None
            return followed and await self.times(order) == 1

        await self.until(by_both)


@pytest.fixture
async def server() -> AsyncIterator[PostgresServer]:
    try:
        async with private_postgres(LAZY) as server:
            yield server
    except ServiceMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"capability: {' '.join(str(error).split())}")


@asynccontextmanager
async def opened(server: PostgresServer) -> AsyncIterator[Shop]:
    storage = PostgresStorage(PostgresConfig(dsn=server.url))
    await storage.upgrade()
    bus = EventBus("memory://", storage=storage, handlers=[Orders])
    async with bus:
        follower = Follower()
        following = asyncio.create_task(follower.follow(bus), name="follower")
        try:
            yield Shop(server, bus, storage, follower)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_positions_of_what_was_rolled_back_come_again_and_are_seen(
    server: PostgresServer,
) -> None:
    async with opened(server) as shop:
        for number in range(ROUNDS):
            await shop.place(f"before-{number}")
            await shop.seen(f"before-{number}")
            await shop.written()
            await shop.draw_and_roll_back()
            drawn = await shop.head()

            async def passed(drawn: Position = drawn) -> bool:
                return (await shop.bus.events.read_all()).bound >= drawn

            await shop.until(passed)
            await shop.crash()
            back = await shop.head()
            await shop.place(f"after-{number}")
            await shop.seen(f"after-{number}")
            if back < drawn:
                break
        assert back < drawn, "no crash took the sequence back"
        assert shop.follower.error is None
        assert len(shop.follower.orders) == len(set(shop.follower.orders))


async def test_an_event_that_a_crash_took_back_ends_subscriptions_and_leaves_projections(
    server: PostgresServer,
) -> None:
    async with opened(server) as shop:
        await shop.place("kept")
        await shop.seen("kept")
        for number in range(ROUNDS):
            await shop.written()
            await shop.place(f"lost-{number}")
            await shop.seen(f"lost-{number}")
            await shop.crash()
            await shop.head()
            lost = await shop.bus.events.head(f"order-lost-{number}") is None
            await shop.place(f"after-{number}")
            await shop.projected(f"after-{number}")
            if lost:
                break
        assert lost, "no crash took a commit back"
        assert await shop.times(f"lost-{number}") == 0
        assert await shop.times("kept") == 1

        await shop.ended_without(f"order-lost-{number}@1")


async def test_an_older_copy_in_the_place_of_the_server_is_noticed(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with opened(server) as shop:
        await shop.place("kept")
        await shop.seen("kept")
        await server.stop()
        data, copy = server.directory / "data", tmp_path / "copy"
        await copied(data, copy)
        await server.start()
        await shop.place("lost")
        await shop.seen("lost")
        await server.stop()
        await asyncio.to_thread(rmtree, data)
        await copied(copy, data)
        await server.start()
        await shop.place("after")
        await shop.projected("after")
        assert [await shop.times(order) for order in ("kept", "lost", "after")] == [1, 0, 1]
        await shop.ended_without("order-lost@1")


async def copied(data: Path, copy: Path) -> None:
    """With its owner, who need not be ours."""
    command = ["cp", "-a", str(data), str(copy)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=110)
