"""A bus with personal data over each storage, and a look at every byte that its database has."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database
from tests.integration.personal.inside import Inside, OfFile, OfSchema
from tests.integration.personal.shop import MASTER, handlers


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    server: str = request.getfixturevalue("server")
    return f"{server}?schema={unique('personal')}"


@pytest.fixture
async def bus(url: str) -> AsyncIterator[EventBus]:
    bus = EventBus("memory://", storage=url, handlers=handlers(), master_key=MASTER)
    await bus.upgrade()
    async with bus:
        yield bus


@pytest.fixture
def inside(url: str) -> Inside:
    if url.startswith("sqlite"):
        return OfFile(Path(url.removeprefix("sqlite:///")))
    return OfSchema(*url.split("?schema="))
