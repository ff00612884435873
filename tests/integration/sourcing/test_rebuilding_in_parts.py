"""The parts of a scan are shared by whoever helps, split when too big, and left to others."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import new_class
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.errors import ProjectionError
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sourcing.rebuild import Beat, Options
from eventbus.sourcing.rebuild.pages import pages_of
from eventbus.sourcing.rebuild.scan import Scan
from eventbus.testing.conformance.samples import unique
from tests.integration.sourcing.read_models import COUNTRIES, Sum, sell, sell_many, stream_of, until
from tests.unit.sourcing.declarations import Placed

TICK = timedelta(milliseconds=1)  # SQLite knows no shorter one
PAUSE = 0.4  # seconds of a lease of somebody who is gone


@pytest.fixture
def revenue() -> Sum:
    return Sum()


@pytest.fixture
async def busy(url: str, revenue: Sum) -> AsyncIterator[EventBus]:
    bus = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus:
        await sell_many(bus, 1000)
        await bus.until_idle()
        yield bus


async def test_who_assists_copies_parts_beside_who_leads(
    busy: EventBus, revenue: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await revenue.rows(busy)
    owners: set[str] = set()
    copies: list[Any] = []
    by_both = asyncio.Event()
    part, copied = Scan.part, Scan._copied

    async def shared(self: Scan, lease: Any, report: Any) -> None:
        owners.add(lease.owner)
        if len(owners) == 2:
            by_both.set()
        await by_both.wait()  # nobody copies all of them alone
        await part(self, lease, report)

    async def counted(self: Scan, tx: Any, records: Any) -> None:
        copies.append(records)
        await copied(self, tx, records)

    monkeypatch.setattr(Scan, "part", shared)
    monkeypatch.setattr(Scan, "_copied", counted)
    options = Options(parts=6, page=50, require_equal=True)
    async with asyncio.TaskGroup() as tasks:
        leading = tasks.create_task(busy.projections.rebuild(revenue.name, options=options))
        helping = tasks.create_task(busy.projections.assist(revenue.name, options=options))
    assert len(owners) == 2
    assert len(copies) == 6  # one who comes to a part when it is done finds its mark
    assert leading.result().switched
    assert leading.result().rows == helping.result() == len(before)
    assert await revenue.rows(busy) == before


async def test_a_part_of_somebody_who_is_gone_is_copied_once_the_lease_has_run_out(
    busy: EventBus, revenue: Sum
) -> None:
    before = await revenue.rows(busy)
    assert busy.storage is not None
    async with busy.storage.transaction() as tx:
        names = [f"scan/{revenue.name}@2/1/3"]
        await tx.leases.acquire(names, owner="gone", ttl=timedelta(seconds=PAUSE), limit=1)
    phases: list[tuple[str, int]] = []

    def seen(beat: Beat) -> None:
        phases.append((beat.phase, beat.done))

    options = Options(parts=3, require_equal=True)
    rebuilt = await busy.projections.rebuild(revenue.name, options=options, beat=seen)
    assert rebuilt.rows == len(before)
    total = max(done for phase, done in phases if phase == "replay")
    assert any(phase == "replay" and done * 3 == total * 2 for phase, done in phases)


async def test_a_part_with_too_many_rows_is_split(busy: EventBus, revenue: Sum) -> None:
    before = await revenue.rows(busy)
    options = Options(most_rows=3, page=20, require_equal=True)
    rebuilt = await busy.projections.rebuild(revenue.name, options=options)
    assert rebuilt.rows == len(before) == len(COUNTRIES)
    assert busy.storage is not None
    async with busy.storage.transaction() as tx:
        marks = await tx.checkpoints.positions(f"scan/{revenue.name}@2/")
    assert {f"scan/{revenue.name}@2/{place}" for place in ("0/1", "0/2", "1/2")} <= set(marks)
    assert set(marks.values()) == {rebuilt.built_to}


async def test_nobody_assists_what_nobody_rebuilds(
    busy: EventBus, revenue: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.sourcing.rebuild.assistance.BEGIN_SECONDS", 0.05)
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.assist(revenue.name)
    assert caught.value.code == "EB6010"


async def test_a_rebuild_from_a_time_has_only_what_came_after(busy: EventBus, revenue: Sum) -> None:
    recorded = await busy.events.read(stream_of("UK"), backwards=True, limit=1)

    async def later() -> bool:
        return datetime.now(UTC) > recorded[0].recorded.recorded_at + 2 * TICK

    await until(later)
    between = datetime.now(UTC) - TICK
    await sell(busy, ("YY", 2))
    await busy.until_idle()
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(since=between))
    assert rebuilt.difference.gone == len(COUNTRIES)
    assert await revenue.rows(busy) == {"YY": (1, 2)}


async def test_a_rebuild_of_chosen_streams_has_only_what_they_hold(
    busy: EventBus, revenue: Sum
) -> None:
    before = await revenue.rows(busy)
    options = Options(streams=(stream_of("UK"), stream_of("FR")))
    rebuilt = await busy.projections.rebuild(revenue.name, options=options)
    assert (rebuilt.difference.equal, rebuilt.difference.gone) == (2, len(COUNTRIES) - 2)
    assert await revenue.rows(busy) == {name: before[name] for name in ("UK", "FR")}


async def test_parts_by_stream_read_streams_of_their_own(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = unique("revenue")
    shares: set[tuple[int, int] | None] = set()

    def noted(storage: Any, after: Any, upto: Any, only: Any, options: Any) -> Any:
        shares.add(only.share)
        return pages_of(storage, after, upto, only, options)

    monkeypatch.setattr("eventbus.sourcing.rebuild.scan.pages_of", noted)
    async with await _by_stream(url, name) as bus:
        sums = await sell_many(bus, 500)
        await bus.until_idle()
        options = Options(parts=3, require_equal=True)
        rebuilt = await bus.projections.rebuild(name, options=options)
        assert rebuilt.rows == len(sums)
        assert shares == {(0, 3), (1, 3), (2, 3)}


async def test_rows_of_several_streams_are_not_built_by_stream(url: str) -> None:
    name = unique("revenue")
    async with await _by_stream(url, name) as bus:
        for number in range(8):
            order = Placed(order_id="A", country="UK", cents=1)
            await bus.events.append(f"order-{number}", [order], expected="any")
        await bus.until_idle()
        for parts in (1, 8):
            with pytest.raises(ProjectionError) as caught:
                await bus.projections.rebuild(name, options=Options(parts=parts))
            assert caught.value.code == "EB6009"
            assert bus.storage is not None
            async with bus.storage.transaction() as tx:
                await tx.projections.drop(name, 2)
        assert (await bus.projections.status(name)).versions == {1: "active"}


async def _by_stream(url: str, name: str) -> EventBus:
    class Row(ReadModel, table=name, key="country"):
        country: str
        cents: int = 0

    class Folds:
        @projects(Placed, key=lambda event: event.country)
        def placed(self, row: Any, event: Placed) -> Any:
            return row.model_copy(update={"cents": row.cents + event.cents})

    folding: Any = FoldingProjection
    cls = new_class("Rows", (Folds, folding[Row]), {"name": name, "by_stream": True})
    bus = EventBus("memory://", storage=url, handlers=[cls])
    await bus.upgrade()
    return bus
