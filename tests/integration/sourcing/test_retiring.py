"""A retired version is kept for a week; who rebuilt and switched stands in the audit."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.errors import ProjectionError, StorageError
from eventbus.sourcing.rebuild import Options
from tests.integration.sourcing.read_models import Sum, sell, sell_many


@pytest.fixture
def revenue() -> Sum:
    return Sum()


@pytest.fixture
async def rebuilt(url: str, revenue: Sum) -> AsyncIterator[EventBus]:
    """A bus whose projection was rebuilt, in two parts."""
    bus = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus:
        await sell_many(bus, 100)
        await bus.until_idle()
        options = Options(parts=2, actor="ada", reason="INC-7")
        await bus.projections.rebuild(revenue.name, options=options)
        yield bus


async def test_a_version_is_kept_for_a_week(rebuilt: EventBus, revenue: Sum) -> None:
    await _later(rebuilt, days=6)
    await _prune(rebuilt)
    assert await rebuilt.projections.rollback(revenue.name) == (2, 1)


async def test_after_a_week_nothing_is_left_of_it(rebuilt: EventBus, revenue: Sum) -> None:
    rows = await revenue.rows(rebuilt)
    await _later(rebuilt, days=8)
    await _prune(rebuilt)
    with pytest.raises(StorageError):
        await revenue.rows(rebuilt, f"{revenue.name}__v1")
    for table in ("checkpoints", "leases", "progress"):
        names = [row["name"] for row in await _read(rebuilt, f"SELECT name FROM {{{table}}}")]
        assert not [name for name in names if f"{revenue.name}@1/" in name], table
    with pytest.raises(ProjectionError) as caught:
        await rebuilt.projections.rollback(revenue.name)
    assert caught.value.code == "EB6010"
    assert await revenue.rows(rebuilt) == rows
    await sell(rebuilt, ("XX", 1))
    await rebuilt.until_idle()
    again = await rebuilt.projections.rebuild(revenue.name)
    assert (again.old, again.new) == (2, 3), "no number is given again"
    assert await revenue.rows(rebuilt) == rows | {"XX": (1, 1)}


async def test_one_that_a_rollback_left_half_way_is_kept_for_a_week_as_well(
    rebuilt: EventBus, revenue: Sum
) -> None:
    assert rebuilt.storage is not None
    async with rebuilt.storage.transaction() as tx:
        await tx.projections.revive(revenue.name, 1)
    await _prune(rebuilt)
    assert await revenue.rows(rebuilt, f"{revenue.name}__v1")
    await _later(rebuilt, days=8)
    await _prune(rebuilt)
    with pytest.raises(StorageError):
        await revenue.rows(rebuilt, f"{revenue.name}__v1")


async def test_what_was_built_and_never_served_is_kept(rebuilt: EventBus, revenue: Sum) -> None:
    await rebuilt.projections.rebuild(revenue.name, options=Options(switch=False))
    await _later(rebuilt, days=8)
    await _prune(rebuilt)
    again = await rebuilt.projections.rebuild(revenue.name, options=Options(resume=True))
    assert (again.new, again.switched) == (3, True)


async def test_what_the_scan_left_goes_and_the_version_serves_on(
    rebuilt: EventBus, revenue: Sum
) -> None:
    assert await _marks(rebuilt, revenue)
    await _prune(rebuilt)
    assert not await _marks(rebuilt, revenue)
    await sell(rebuilt, ("XX", 1))
    await rebuilt.until_idle()
    assert (await revenue.rows(rebuilt))["XX"] == (1, 1)


async def test_who_did_what_stands_in_the_audit(rebuilt: EventBus, revenue: Sum) -> None:
    await rebuilt.projections.rollback(revenue.name, actor="bob", reason="wrong")
    rows = await _read(rebuilt, "SELECT * FROM {audit} ORDER BY id")
    told = [(row["verb"], row["actor"], row["reason"]) for row in rows]
    assert told == [
        ("rebuild", "ada", "INC-7"),
        ("switch", "ada", "INC-7"),
        ("rollback", "bob", "wrong"),
    ]
    what = {"place": "projection", "projection": revenue.name}
    assert json.loads(rows[1]["selection"]) == what | {"from": 1, "to": 2}
    assert json.loads(rows[2]["selection"]) == what | {"from": 2, "to": 1}


async def _prune(bus: EventBus) -> None:
    assert bus.storage is not None
    await bus.storage.prune(inbox=timedelta(days=7), limit=100)


async def _later(bus: EventBus, *, days: int) -> None:
    storage: Any = bus.storage
    past = f"interval '{days} days'" if hasattr(storage, "config") else str(days * 86_400_000)
    async with storage.transaction() as tx:
        await tx.sql.execute(
            _places(bus, f"UPDATE {{projections}} SET switched_at = switched_at - {past}")
        )


async def _marks(bus: EventBus, revenue: Sum) -> list[str]:
    rows = await _read(bus, "SELECT name FROM {checkpoints}")
    return [row["name"] for row in rows if row["name"].startswith(f"scan/{revenue.name}@")]


async def _read(bus: EventBus, statement: str) -> Sequence[Any]:
    assert bus.storage is not None
    async with bus.storage.transaction() as tx:
        return await tx.sql.fetch(_places(bus, statement))


def _places(bus: EventBus, statement: str) -> str:
    """The tables of the framework are in a schema, or have a prefix."""
    config = getattr(bus.storage, "config", None)
    prefix = "eventbus_" if config is None else f"{config.schema}."
    names = ("projections", "checkpoints", "leases", "progress", "audit")
    return statement.format(**{name: prefix + name for name in names})
