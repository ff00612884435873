"""A projection of the general form is rebuilt beside what serves, in tables like its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from eventbus import EventBus
from eventbus.errors import ProjectionError, StorageError
from eventbus.inspection import Inspected, Selection
from eventbus.sourcing import RecordedEvent, View
from eventbus.sourcing.rebuild import Options
from eventbus.sourcing.rebuild.replay import Replay
from eventbus.storage.projections import Difference
from eventbus.testing import assert_rebuild_equals_live
from eventbus.testing.conformance.samples import unique
from tests.integration.sourcing.read_models import COUNTRIES, LONG, sell, sell_many
from tests.unit.sourcing.declarations import Placed, Withdrawn

MANY = 600
LISTED = Options(page=100)


class Sales:
    """Two tables: each order, and sums by country."""

    by_stream = True
    handles = (Placed, Withdrawn)

    def __init__(self) -> None:
        self.name = unique("sales")
        self.sums = f"{self.name}_sums"
        self.tables: Sequence[str] = (self.name, self.sums)
        self.factor = 1
        self.refused: set[int] = set()
        self.past_the_view = False
        self.announces = False

    async def apply(self, events: Sequence[RecordedEvent], view: View) -> None:
        sales, sums = view.table(self.name), view.table(self.sums)
        if self.past_the_view:
            sums = self.sums
        for one in events:
            event = one.event
            assert isinstance(event, Placed)
            if event.cents in self.refused:
                raise ValueError(f"an order of {event.cents}")
            cents = event.cents * self.factor
            await view.sql.execute(
                f"INSERT INTO {sales} (position, cents) VALUES ($1, $2)",
                one.recorded.position,
                cents,
            )
            await view.sql.execute(
                f"INSERT INTO {sums} AS s (country, orders, cents) VALUES ($1, 1, $2)"
                " ON CONFLICT (country) DO UPDATE"
                " SET orders = s.orders + 1, cents = s.cents + excluded.cents",
                event.country,
                cents,
            )
            if self.announces:
                await view.publish(Withdrawn(order_id=event.order_id, country=event.country))

    async def create(self, bus: EventBus) -> None:
        async with bus.transaction() as tx:
            await tx.sql.execute(
                f"CREATE TABLE {self.name} (position bigint PRIMARY KEY, cents bigint NOT NULL)"
            )
            await tx.sql.execute(
                f"CREATE TABLE {self.sums} (country text, orders bigint, cents bigint)"
            )
            await tx.sql.execute(f"CREATE UNIQUE INDEX {self.sums}_key ON {self.sums} (country)")

    async def rows(self, bus: EventBus, version: str = "") -> tuple[dict[int, int], dict[str, Any]]:
        assert bus.storage is not None
        async with bus.storage.transaction() as tx:
            sales = await tx.sql.fetch(f"SELECT * FROM {self.name}{version}")
            sums = await tx.sql.fetch(f"SELECT * FROM {self.sums}{version}")
        return (
            {row["position"]: row["cents"] for row in sales},
            {row["country"]: (row["orders"], row["cents"]) for row in sums},
        )


class KeyedSales(Sales):
    """With a primary key on both tables, so that it can be compared."""

    async def create(self, bus: EventBus) -> None:
        async with bus.transaction() as tx:
            await tx.sql.execute(
                f"CREATE TABLE {self.name} (position bigint PRIMARY KEY, cents bigint NOT NULL)"
            )
            await tx.sql.execute(f"CREATE INDEX {self.name}_cents ON {self.name} (cents)")
            await tx.sql.execute(
                f"CREATE TABLE {self.sums} (country text PRIMARY KEY, orders bigint, cents bigint)"
            )


@pytest.fixture
def sales() -> Sales:
    return KeyedSales()


@pytest.fixture
async def busy(url: str, sales: Sales) -> AsyncIterator[EventBus]:
    async with await begun(url, sales, MANY) as bus:
        yield bus


async def begun(url: str, sales: Sales, amount: int) -> EventBus:
    """A bus whose projection has seen so much."""
    bus = EventBus("memory://", storage=url, handlers=[sales])
    await bus.upgrade()
    async with bus.client():
        await sales.create(bus)
        await sell_many(bus, amount)
    async with bus:
        await bus.until_idle()
    return bus


def _anew(bus: EventBus, sales: Sales) -> EventBus:
    """With what is declared now, on the same database."""
    return EventBus("memory://", storage=bus.storage, handlers=[sales])


async def _published(bus: EventBus) -> list[Any]:
    inspection = cast("Inspected", bus.storage).inspection
    return list(await inspection.find(Selection(place="outbox"), limit=1))


async def _statuses(bus: EventBus, name: str) -> dict[int, str]:
    return dict((await bus.projections.status(name)).versions)


async def test_a_rebuild_gives_the_same_rows_in_every_table(busy: EventBus, sales: Sales) -> None:
    before = await sales.rows(busy)
    rebuilt = await busy.projections.rebuild(sales.name, options=Options(require_equal=True))
    assert rebuilt.switched
    assert rebuilt.difference.equal == MANY + len(COUNTRIES)
    assert await sales.rows(busy) == before == await sales.rows(busy, "__v1")
    assert await _statuses(busy, sales.name) == {1: "retired", 2: "active"}
    position = await sell(busy, ("XX", 5))
    await busy.projections.wait(sales.name, position, at_most=LONG)
    assert (await sales.rows(busy))[1]["XX"] == (1, 5)
    assert await sales.rows(busy, "__v1") == before


async def test_other_code_says_what_would_change_in_which_table(
    busy: EventBus, sales: Sales
) -> None:
    before = await sales.rows(busy)
    sales.factor = 2
    asked: list[Difference] = []

    async def confirm(difference: Difference) -> bool:
        asked.append(difference)
        return True

    await busy.projections.rebuild(sales.name, confirm=confirm)
    assert asked[0].differ == MANY - 1 + len(COUNTRIES)  # twice nothing is nothing
    assert {one["table"] for one in asked[0].examples} <= set(sales.tables)
    orders, sums = await sales.rows(busy)
    assert orders == {position: cents * 2 for position, cents in before[0].items()}
    assert sums == {country: (n, cents * 2) for country, (n, cents) in before[1].items()}


async def test_a_rollback_lets_every_table_of_before_serve(busy: EventBus, sales: Sales) -> None:
    before = await sales.rows(busy)
    sales.factor = 2
    await busy.projections.rebuild(sales.name)
    sales.factor = 1
    position = await sell(busy, ("XX", 5))
    assert await busy.projections.rollback(sales.name) == (2, 1)
    await busy.projections.wait(sales.name, position, at_most=LONG)
    orders, sums = await sales.rows(busy)
    assert orders == before[0] | {position: 5}
    assert sums == before[1] | {"XX": (1, 5)}


async def test_orders_that_keep_coming_in_are_counted_once(busy: EventBus, sales: Sales) -> None:
    stop = asyncio.Event()
    sold = 0

    async def storm() -> None:
        nonlocal sold
        while not stop.is_set():
            await sell(busy, ("UK", 1), ("XX", 2))
            sold += 1
            await asyncio.sleep(0)  # in memory an append hands nothing over

    writing = asyncio.create_task(storm(), name="test:storm")
    try:
        for _ in range(2):
            assert (await busy.projections.rebuild(sales.name, options=LISTED)).switched
        await busy.projections.rollback(sales.name)
    finally:
        stop.set()
        await writing
    await busy.until_idle()
    orders, sums = await sales.rows(busy)
    assert sums["XX"] == (sold, sold * 2)
    assert len(orders) == sum(n for n, _ in sums.values()) == MANY + 2 * sold


async def test_what_was_cut_off_goes_on_where_it_was(
    busy: EventBus, sales: Sales, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await sales.rows(busy)
    seen: list[int] = []
    page = Replay._page

    async def cut(self: Replay, shard: Any, found: Any) -> None:
        seen.append(shard.position)
        await page(self, shard, found)
        if len(seen) == 3:
            raise StorageError("EB5001", "gone", where="here", why="a test", next="again")

    monkeypatch.setattr(Replay, "_page", cut)
    with pytest.raises(StorageError):
        await busy.projections.rebuild(sales.name, options=LISTED)
    assert await sales.rows(busy) == before
    await busy.projections.rebuild(sales.name, options=Options(page=100, require_equal=True))
    assert seen == sorted(set(seen)), "no page twice"
    assert await sales.rows(busy) == before


async def test_by_stream_it_is_shared_by_whoever_helps(
    busy: EventBus, sales: Sales, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await sales.rows(busy)
    owners: set[str] = set()
    by_both = asyncio.Event()
    part = Replay.part

    async def shared(self: Replay, lease: Any, report: Any) -> None:
        owners.add(lease.owner)
        if len(owners) == 2:
            by_both.set()
        await by_both.wait()
        await part(self, lease, report)

    monkeypatch.setattr(Replay, "part", shared)
    options = Options(parts=4, page=50, require_equal=True)
    async with asyncio.TaskGroup() as tasks:
        leading = tasks.create_task(busy.projections.rebuild(sales.name, options=options))
        tasks.create_task(busy.projections.assist(sales.name, options=options))
    assert leading.result().switched
    assert await sales.rows(busy) == before


async def test_without_a_stream_of_its_own_nobody_helps(url: str, sales: Sales) -> None:
    sales.by_stream = False
    async with await begun(url, sales, 100) as bus:
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.assist(sales.name)
        assert caught.value.code == "EB6010"
        rebuilt = await bus.projections.rebuild(
            sales.name, options=Options(parts=4, require_equal=True)
        )
        assert rebuilt.switched
        assert bus.storage is not None
        async with bus.storage.transaction() as tx:
            marks = await tx.checkpoints.positions(f"scan/{sales.name}@2/")
        assert set(marks) == {f"scan/{sales.name}@2/0/1"}


async def test_code_that_writes_past_the_view_is_stopped_and_changed_nothing(
    busy: EventBus, sales: Sales
) -> None:
    before = await sales.rows(busy)
    sales.past_the_view = True
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(sales.name)
    assert caught.value.code == "EB6016"
    assert sales.sums in caught.value.what
    assert await sales.rows(busy) == before
    position = await sell(busy, ("XX", 5))
    await busy.projections.wait(sales.name, position, at_most=LONG)
    assert (await sales.rows(busy))[1]["XX"] == (1, 5), "it serves on"


async def test_a_table_that_it_does_not_name_is_not_written(url: str, sales: Sales) -> None:
    first = await begun(url, sales, 100)
    sales.tables = (sales.name,)
    async with _anew(first, sales) as bus:
        before = await sales.rows(bus)
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.rebuild(sales.name)
        assert caught.value.code == "EB6016"
        assert await sales.rows(bus) == before


async def test_without_names_of_tables_there_is_nothing_to_rebuild(url: str, sales: Sales) -> None:
    sales.tables = ()
    async with await begun(url, sales, 10) as bus:
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.rebuild(sales.name)
        assert caught.value.code == "EB6010"
        assert "tables = (…)" in caught.value.why


async def test_an_event_that_fails_is_parked_and_the_switch_refused(
    busy: EventBus, sales: Sales
) -> None:
    before = await sales.rows(busy)
    sales.refused = {7}
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(sales.name, options=LISTED)
    assert caught.value.code == "EB6012"
    assert await sales.rows(busy) == before
    rebuilt = await busy.projections.rebuild(
        sales.name, options=Options(page=100, resume=True, allow_parked=True)
    )
    assert (rebuilt.parked, rebuilt.switched) == (1, True)


async def test_nothing_is_published_again(busy: EventBus, sales: Sales) -> None:
    sales.announces = True
    rebuilt = await busy.projections.rebuild(sales.name)
    assert rebuilt.switched
    assert not await _published(busy)


async def test_a_table_without_a_key_is_refused(url: str) -> None:
    sales = Sales()
    async with await begun(url, sales, 10) as bus:
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.rebuild(sales.name)
        assert caught.value.code == "EB6010"
        assert sales.sums in caught.value.why
        assert await _statuses(bus, sales.name) == {1: "active"}


async def test_a_table_that_a_migration_added_is_filled_and_serves(url: str, sales: Sales) -> None:
    both, sales.tables = sales.tables, (sales.name,)
    first = await begun(url, sales, 50)
    sales.tables = both
    async with _anew(first, sales) as bus:
        assert bus.storage is not None
        async with bus.storage.transaction() as tx:
            await tx.sql.execute(f"DELETE FROM {sales.sums}")
        await bus.projections.rebuild(sales.name)
        assert sum(orders for orders, _ in (await sales.rows(bus))[1].values()) == 50
        await bus.projections.rollback(sales.name)
        assert (await sales.rows(bus))[1] == {}


async def test_a_dropped_shadow_leaves_no_table(busy: EventBus, sales: Sales) -> None:
    assert await assert_rebuild_equals_live(busy, sales.name) == MANY + len(COUNTRIES)
    with pytest.raises(StorageError):
        await sales.rows(busy, "__v2")
    assert await _statuses(busy, sales.name) == {1: "active"}
