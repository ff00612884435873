"""Row 24 for a rebuild: no space left for the new rows stops it, and nothing that serves."""

import pytest

from eventbus import Event, EventBus
from eventbus.errors import StorageError
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.sourcing.rebuild import Options
from eventbus.testing.services import PostgresServer
from tests.integration.postgres.test_disk_full import names, own, owned, small_disk
from tests.integration.sourcing.read_models import Sum, sell, stream_of
from tests.unit.sourcing.declarations import Placed

__all__ = ["own"]  # the fixture

DISK_MEGABYTES = 96
ROWS = 30_000
LONG = "x" * 200  # of each key, so that few rows need much space
SMALL = Options(page=500)  # sorted in memory: reading needs no space
LEFT = 4  # pieces: for plan, leases, marks and sorting, and not for so many rows
PIECE = "CREATE TABLE filler_{} AS SELECT repeat('x', 2000) FROM generate_series(1, 600)"


async def test_a_disk_that_fills_up_during_the_copy_leaves_what_serves(own: PostgresServer) -> None:
    revenue = Sum()
    with small_disk(own.directory / "disk", DISK_MEGABYTES) as disk:
        url = await database_on(own.url, str(owned(disk)))
        storage = PostgresStorage(PostgresConfig(dsn=url))
        await storage.upgrade()
        async with EventBus("memory://", storage=storage, handlers=[revenue.projection()]) as bus:
            await sell_to_many(bus)
            await bus.until_idle()
            before = await revenue.rows(bus)
            assert len(before) == ROWS
            pieces = await filled(url)
            with pytest.raises(StorageError) as caught:
                await bus.projections.rebuild(revenue.name, options=SMALL)
            assert caught.value.code == "EB5006"
            assert caught.value.where.startswith("replay: projections.load")
            assert f"projection rebuild {revenue.name}" in caught.value.next
            assert await revenue.rows(bus) == before
            assert await revenue.rows(bus, f"{revenue.name}__v2") == {}
            for number in range(pieces):
                await names(url, f"DROP TABLE filler_{number}")
            position = await sell(bus, ("XX", 1))
            await bus.projections.wait(revenue.name, position)
            rebuilt = await bus.projections.rebuild(revenue.name)
            assert (rebuilt.new, rebuilt.switched, rebuilt.difference.differ) == (2, True, 0)
            assert await revenue.rows(bus) == before | {"XX": (1, 1)}
        await names(own.url, "DROP DATABASE small WITH (FORCE)")
        await names(own.url, "DROP TABLESPACE small")


async def database_on(url: str, folder: str) -> str:
    """A database of its own there."""
    await names(url, f"CREATE TABLESPACE small LOCATION '{folder}'")
    await names(url, "CREATE DATABASE small TABLESPACE small")
    return url.removesuffix("/postgres") + "/small"


async def sell_to_many(bus: EventBus) -> None:
    """A row for each event."""
    for first in range(0, ROWS, 1000):
        events: list[Event] = [
            Placed(order_id="A", country=f"{LONG}{number:06}", cents=number)
            for number in range(first, first + 1000)
        ]
        await bus.events.append(stream_of("UK"), events, expected="any", publish=False)


async def filled(url: str) -> int:
    """Take all space but what plan, leases and marks need; how many tables that are."""
    number = 0
    while True:
        try:
            await names(url, PIECE.format(number))
        except Exception as error:
            if getattr(error, "sqlstate", "") != "53100":
                raise
            break
        number += 1
    for last in range(number - LEFT, number):
        await names(url, f"DROP TABLE filler_{last}")
    return number - LEFT
