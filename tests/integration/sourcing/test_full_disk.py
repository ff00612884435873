"""A disk that is full while a rebuild copies stops it, and nothing that serves."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from eventbus import Event, EventBus
from eventbus.errors import StorageError
from tests.integration.sourcing.read_models import COUNTRIES, LONG, Sum, sell, stream_of
from tests.unit.sourcing.declarations import Placed

ROWS = 4000
LEFT = 24  # pages: for plan, leases and marks, and not for so many rows


async def test_a_full_disk_during_the_copy_leaves_what_serves_and_is_gone_on_with(
    tmp_path: Path,
) -> None:
    revenue = Sum()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with EventBus("memory://", storage=url, handlers=[revenue.projection()]) as bus:
        events: list[Event] = [
            Placed(order_id="A", country=f"country-{number:05}", cents=number)
            for number in range(ROWS)
        ]
        for first in range(0, ROWS, 1000):
            some = events[first : first + 1000]
            await bus.events.append(stream_of("UK"), some, expected="any", publish=False)
        await bus.until_idle()
        before = await revenue.rows(bus)
        await _room(bus, LEFT)
        with pytest.raises(StorageError) as caught:
            await bus.projections.rebuild(revenue.name)
        assert caught.value.code == "EB5006"
        assert caught.value.where == "replay: projections.load"
        assert "it goes on" in caught.value.next
        assert await revenue.rows(bus) == before
        assert await revenue.rows(bus, f"{revenue.name}__v2") == {}
        await _room(bus, 1_000_000)
        position = await sell(bus, ("XX", 1))
        await bus.projections.wait(revenue.name, position, at_most=LONG)
        rebuilt = await bus.projections.rebuild(revenue.name)
        assert (rebuilt.new, rebuilt.switched, rebuilt.difference.differ) == (2, True, 0)
        assert await revenue.rows(bus) == before | {"XX": (1, 1)}


async def test_without_room_on_the_disk_nothing_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revenue = Sum()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with EventBus("memory://", storage=url, handlers=[revenue.projection()]) as bus:
        await sell(bus, *[(country, 1) for country in COUNTRIES])
        await bus.until_idle()
        before = await revenue.rows(bus)
        usage = shutil.disk_usage(tmp_path)
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300))
            with pytest.raises(StorageError) as caught:
                await bus.projections.rebuild(revenue.name)
        assert caught.value.code == "EB5006"
        assert "300 are free" in caught.value.why
        assert await revenue.rows(bus) == before
        rebuilt = await bus.projections.rebuild(revenue.name)
        assert (rebuilt.new, rebuilt.switched) == (2, True)


async def _room(bus: EventBus, pages: int) -> None:
    """Let the file grow by so many pages; SQLite then says that the disk is full."""

    def limit(connection: sqlite3.Connection) -> None:
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {now + pages}")

    storage: Any = bus.storage
    async with storage.transaction() as tx:
        await tx.session.run("test", limit)
