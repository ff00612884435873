"""Row 20: a database that came back from a backup, from the backup to the last word of the docs."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventbus import EventBus
from eventbus.errors import SourcingError
from eventbus.testing.services.postgres import create_database, drop_database
from tests.integration.sourcing.read_models import Sum, sell, until

LONG = timedelta(seconds=30)
ROOT = Path(__file__).parents[3]


@dataclass
class Database:
    """One that nobody is connected to, and its backup."""

    url: str

    async def back_up(self) -> None:
        """Keep it as it is."""
        raise NotImplementedError

    async def restore(self) -> None:
        """Let it be what was kept."""
        raise NotImplementedError


@dataclass
class File(Database):
    """A SQLite file, and a copy of it."""

    path: Path

    async def back_up(self) -> None:
        shutil.copy(self.path, self.path.with_suffix(".backup"))

    async def restore(self) -> None:
        shutil.copy(self.path.with_suffix(".backup"), self.path)


@dataclass
class Server(Database):
    """A database of PostgreSQL, and one that is made from it as from a template."""

    async def back_up(self) -> None:
        await self._made(f"{self._name}_backup", of=self._name)

    async def restore(self) -> None:
        """What served gets another name: to drop it may take minutes."""
        await self._administer(f"ALTER DATABASE {self._name} RENAME TO {self._name}_before")
        await self._made(self._name, of=f"{self._name}_backup")

    @property
    def _name(self) -> str:
        return urlsplit(self.url).path.removeprefix("/")

    async def _made(self, name: str, *, of: str) -> None:
        await self._administer(f"CREATE DATABASE {name} TEMPLATE {of}")

    async def _administer(self, statement: str) -> None:
        connection = await asyncpg.connect(
            urlunsplit(urlsplit(self.url)._replace(path="/postgres"))
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    if request.param == "sqlite":
        path = tmp_path / "shop.db"
        yield File(f"sqlite:///{path}", path)
        return
    server = Server(create_database(request.getfixturevalue("server")))
    try:
        yield server
    finally:
        for suffix in ("", "_backup", "_before"):
            drop_database(f"{server.url}{suffix}")


@pytest.fixture
def revenue() -> Sum:
    return Sum()


async def command(*words: str) -> str:
    """What an operator types."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eventbus", *words),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await child.communicate()
    assert child.returncode == 0
    return out.decode()


@asynccontextmanager
async def restored(database: Database, revenue: Sum) -> AsyncIterator[EventBus]:
    """A shop whose orders of FR, told to somebody outside, were lost with the database."""
    bus = EventBus("memory://", storage=database.url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus:
        await sell(bus, ("UK", 3))
        await bus.until_idle()
    await database.back_up()
    bus = EventBus("memory://", storage=database.url, handlers=[revenue.projection()])
    async with bus:
        seen = await sell(bus, ("FR", 4), ("FR", 5))
        await bus.until_idle()
        assert await revenue.rows(bus) == {"UK": (1, 3), "FR": (2, 9)}
    await database.restore()
    told = await command("db", "upgrade", "--storage", database.url, "--new-incarnation", "--yes")
    assert "a new incarnation began: 1 checkpoints are refused" in told
    bus = EventBus("memory://", storage=database.url, handlers=[revenue.projection()])
    async with bus:
        async with aclosing(bus.events.subscribe(after=seen)) as outside:
            with pytest.raises(SourcingError, match="EB4205"):
                await anext(outside)
        await until(lambda: says(bus, "another incarnation"))
        await sell(bus, ("UK", 7), ("DE", 1), ("DE", 1))
        assert await revenue.rows(bus) == {"UK": (1, 3)}  # nothing goes on silently
        yield bus


async def says(bus: EventBus, what: str) -> bool:
    return what in str((await bus.health()).services)


async def test_rows_that_came_back_with_their_checkpoint_are_accepted(
    database: Database, revenue: Sum
) -> None:
    async with restored(database, revenue) as bus:
        await bus.projections.resume(revenue.name, actor="test", accept=True)
        await caught_up(bus, revenue)


async def test_rows_that_nobody_trusts_are_rebuilt(database: Database, revenue: Sum) -> None:
    async with restored(database, revenue) as bus:
        assert (await bus.projections.rebuild(revenue.name)).switched
        await caught_up(bus, revenue)


async def caught_up(bus: EventBus, revenue: Sum) -> None:
    position = await sell(bus, ("UK", 1))
    await bus.projections.wait(revenue.name, position, at_most=LONG)
    assert await revenue.rows(bus) == {"UK": (3, 11), "DE": (2, 2)}
