"""A bus over each storage that has a log."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database
from tests.unit.sourcing import orders


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite://"
    server: str = request.getfixturevalue("server")
    return f"{server}?schema={unique('log')}"


@pytest.fixture
def lasting(url: str, tmp_path: Path) -> str:
    """A storage whose data outlive the bus."""
    return f"sqlite:///{tmp_path}/bus.db" if url == "sqlite://" else url


@pytest.fixture
async def bus(url: str) -> AsyncIterator[EventBus]:
    """Entered; it knows the events of orders."""
    bus = EventBus("memory://", storage=url, handlers=[orders])
    await bus.upgrade()
    async with bus:
        yield bus
