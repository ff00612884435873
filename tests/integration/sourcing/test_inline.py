"""An inline projection writes its rows in the transaction of the append, or nothing is recorded."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from eventbus import EventBus
from eventbus.errors import ConcurrencyError, ProjectionError, StorageError
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.inline import Inline
from eventbus.sourcing.rebuild import Options
from eventbus.storage.events import Append
from eventbus.testing.conformance.samples import some_message
from tests.integration.sourcing.read_models import Sum, sell, sell_many, stream_of
from tests.unit.sourcing.declarations import Placed, Withdrawn

MANY = 20


@pytest.fixture
def revenue() -> Sum:
    return Sum(runs="inline")


@pytest.fixture
async def shop(url: str, revenue: Sum) -> AsyncIterator[EventBus]:
    bus = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus:
        yield bus


async def test_the_row_is_there_when_the_append_returns(shop: EventBus, revenue: Sum) -> None:
    assert await revenue.rows(shop) == {}
    await sell(shop, ("UK", 3), ("UK", 4), ("FR", 5))
    assert await revenue.rows(shop) == {"UK": (2, 7), "FR": (1, 5)}
    row = await shop.projections.get(revenue.name, "UK")
    assert row is not None
    standing = await shop.projections.status(revenue.name)
    assert (standing.runs, standing.lag_events, standing.cause) == ("inline", 0, None)
    assert standing.version == 1


async def test_a_unit_of_work_sees_the_row_it_has_just_changed(
    shop: EventBus, revenue: Sum
) -> None:
    async with shop.transaction() as tx:
        await tx.append(stream_of("UK"), [_placed(3), _placed(4)], expected="any")
        (row,) = await tx.sql.fetch(f"SELECT cents FROM {revenue.name}")
        assert row["cents"] == 7
        await tx.append(stream_of("UK"), [_placed(5)], expected="any")
    assert await revenue.rows(shop) == {"UK": (3, 12)}


async def test_what_is_rolled_back_leaves_neither_event_nor_row(
    shop: EventBus, revenue: Sum
) -> None:
    with pytest.raises(RuntimeError):
        async with shop.transaction() as tx:
            await tx.append(stream_of("UK"), [_placed(3)], expected="any")
            raise RuntimeError
    assert await revenue.rows(shop) == {}
    assert await shop.events.read(stream_of("UK")) == []


async def test_an_event_at_which_it_fails_is_not_recorded(shop: EventBus, revenue: Sum) -> None:
    revenue.refused = {13}
    with pytest.raises(ProjectionError) as caught:
        await shop.events.append(stream_of("UK"), [_placed(3), _placed(13)], expected="any")
    assert caught.value.code == "EB6015"
    assert "row UK" in caught.value.where
    assert isinstance(caught.value.__cause__, ValueError)
    assert await revenue.rows(shop) == {}
    assert await shop.events.read(stream_of("UK")) == []


async def test_a_transaction_lives_on_without_the_append_that_was_refused(
    shop: EventBus, revenue: Sum
) -> None:
    revenue.refused = {13}
    async with shop.transaction() as tx:
        with pytest.raises(ProjectionError):
            await tx.append(stream_of("UK"), [_placed(13)], expected="any")
        await tx.append(stream_of("UK"), [_placed(5)], expected="absent")
    assert await revenue.rows(shop) == {"UK": (1, 5)}
    assert len(await shop.events.read(stream_of("UK"))) == 1


async def test_a_value_that_fits_no_column_refuses_the_append(shop: EventBus, revenue: Sum) -> None:
    revenue.factor = 2**62
    with pytest.raises(ProjectionError) as caught:
        await shop.events.append(stream_of("UK"), [_placed(9)], expected="any")
    assert caught.value.code == "EB6015"
    assert f"{revenue.name}.cents" in caught.value.why
    assert await revenue.rows(shop) == {}


async def test_a_conflict_changes_no_row(shop: EventBus, revenue: Sum) -> None:
    await sell(shop, ("UK", 3))
    with pytest.raises(ConcurrencyError):
        await shop.events.append(stream_of("UK"), [_placed(4)], expected="absent")
    assert await revenue.rows(shop) == {"UK": (1, 3)}


async def test_a_repeated_append_counts_once(shop: EventBus, revenue: Sum) -> None:
    inline = Inline([Definition(revenue.projection())])
    append = Append(stream=stream_of("UK"), messages=[some_message()], expected="absent")
    assert shop.storage is not None
    for repeated in (False, True):
        async with shop.storage.transaction() as tx:
            appended = await inline.append(tx, append, [_placed(3)])
        assert appended.repeated == repeated
    assert await revenue.rows(shop) == {"UK": (1, 3)}


async def test_a_row_is_deleted_and_begins_anew(shop: EventBus, revenue: Sum) -> None:
    gone = Withdrawn(order_id="A", country="UK")
    await sell(shop, ("UK", 3))
    await shop.events.append(stream_of("UK"), [gone], expected="any")
    assert await revenue.rows(shop) == {}
    await shop.events.append(stream_of("UK"), [gone, _placed(4)], expected="any")
    assert await revenue.rows(shop) == {"UK": (1, 4)}


async def test_appends_to_many_streams_change_one_row_in_turn(url: str, revenue: Sum) -> None:
    bus = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus:
        async with asyncio.TaskGroup() as tasks:
            for number in range(MANY):
                work = bus.events.append(f"order-{number}", [_placed(number)], expected="absent")
                tasks.create_task(work, name=f"test:append:{number}")
        assert await revenue.rows(bus) == {"UK": (MANY, sum(range(MANY)))}


async def test_a_bulk_load_writes_the_rows_too(shop: EventBus, revenue: Sum) -> None:
    streams = [(f"order-{number}", [_placed(number)]) for number in range(5)]
    assert await shop.events.load(streams) == 5
    assert await shop.events.load([*streams, ("order-9", [_placed(9)])], skip=True) == 1
    assert await revenue.rows(shop) == {"UK": (6, 19)}


async def test_a_rebuild_gives_the_same_rows_while_orders_keep_coming_in(
    shop: EventBus, revenue: Sum
) -> None:
    await sell_many(shop, 500)
    stop = asyncio.Event()
    sold = 0

    async def storm() -> None:
        nonlocal sold
        while not stop.is_set():
            await sell(shop, ("UK", 1), ("XX", 2))
            sold += 1
            await asyncio.sleep(0)  # in memory an append hands nothing over

    writing = asyncio.create_task(storm(), name="test:storm")
    try:
        rebuilt = await shop.projections.rebuild(revenue.name, options=Options(require_equal=True))
    finally:
        stop.set()
        await writing
    assert rebuilt.switched
    await sell(shop, ("XX", 2))
    rows = await revenue.rows(shop)
    assert rows["XX"] == (sold + 1, 2 * sold + 2)
    assert sum(orders for orders, _ in rows.values()) == 501 + 2 * sold
    standing = await shop.projections.status(revenue.name)
    assert dict(standing.versions) == {1: "retired", 2: "active"}


async def test_other_code_records_nothing_until_its_rebuild_has_switched(
    url: str, revenue: Sum
) -> None:
    first = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await first.upgrade()
    async with first:
        await sell(first, ("UK", 3))
    revenue.version, revenue.factor = 2, 10
    bus = EventBus("memory://", storage=first.storage, handlers=[revenue.projection()])
    async with bus:
        with pytest.raises(StorageError) as caught:
            await sell(bus, ("UK", 4))
        assert caught.value.code == "EB5202"
        assert await revenue.rows(bus) == {"UK": (1, 3)}
        assert (await bus.projections.rebuild(revenue.name)).switched
        await sell(bus, ("UK", 4))
        assert await revenue.rows(bus) == {"UK": (2, 70)}
    async with first:  # and the code of before has to go
        with pytest.raises(StorageError) as caught:
            await sell(first, ("UK", 5))
        assert caught.value.code == "EB5202"


async def test_what_followed_becomes_inline_by_a_rebuild(url: str, revenue: Sum) -> None:
    revenue.runs = "following"
    first = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await first.upgrade()
    async with first:
        await sell(first, ("UK", 3))
        await first.until_idle()
    revenue.runs = "inline"
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        assert (await bus.projections.rebuild(revenue.name)).switched
        await sell(bus, ("UK", 4))
        assert await revenue.rows(bus) == {"UK": (2, 7)}
    revenue.runs = "following"
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        assert (await bus.projections.rebuild(revenue.name)).switched
        position = await sell(bus, ("UK", 5))
        await bus.projections.wait(revenue.name, position, at_most=timedelta(seconds=30))
        assert await revenue.rows(bus) == {"UK": (3, 12)}


async def test_one_that_begins_late_says_what_it_lacks_until_it_is_rebuilt(
    url: str, revenue: Sum
) -> None:
    first = EventBus("memory://", storage=url, handlers=[Placed])
    await first.upgrade()
    async with first:
        await sell(first, ("UK", 3))
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        await sell(bus, ("UK", 4))
        assert await revenue.rows(bus) == {"UK": (1, 4)}
        cause = (await bus.projections.status(revenue.name)).cause
        assert cause is not None
        assert "rebuild it" in cause
        await bus.projections.rebuild(revenue.name)
        assert await revenue.rows(bus) == {"UK": (2, 7)}
        assert (await bus.projections.status(revenue.name)).cause is None


async def test_an_inline_version_catches_up_before_it_is_rolled_back_to(
    shop: EventBus, revenue: Sum
) -> None:
    await sell(shop, ("UK", 3))
    await shop.projections.rebuild(revenue.name)
    await sell(shop, ("UK", 4), ("FR", 5))
    assert await shop.projections.rollback(revenue.name) == (2, 1)
    assert await revenue.rows(shop) == {"UK": (2, 7), "FR": (1, 5)}
    await sell(shop, ("UK", 6))
    assert await revenue.rows(shop) == {"UK": (3, 13), "FR": (1, 5)}
    standing = await shop.projections.status(revenue.name)
    assert standing.versions == {1: "active", 2: "retired"}
    assert standing.cause is None
    assert await shop.projections.rollback(revenue.name) == (1, 2)
    assert await revenue.rows(shop) == {"UK": (3, 13), "FR": (1, 5)}
    await shop.projections.rebuild(revenue.name, options=Options(require_equal=True))


async def test_orders_that_keep_coming_in_are_counted_once_over_a_rollback(
    shop: EventBus, revenue: Sum
) -> None:
    await sell(shop, ("UK", 3))
    await shop.projections.rebuild(revenue.name)
    stop, sold = asyncio.Event(), 0

    async def storm() -> None:
        nonlocal sold
        while not stop.is_set():
            await sell(shop, ("XX", 2))
            sold += 1
            await asyncio.sleep(0)  # in memory an append hands nothing over

    writing = asyncio.create_task(storm(), name="test:storm")
    try:
        for expected in ((2, 1), (1, 2), (2, 1)):
            assert await shop.projections.rollback(revenue.name) == expected
    finally:
        stop.set()
        await writing
    assert (await revenue.rows(shop))["XX"] == (sold, sold * 2)


async def test_an_inline_version_is_rolled_back_to_by_its_own_code_only(
    url: str, revenue: Sum
) -> None:
    first = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await first.upgrade()
    async with first:
        await sell(first, ("UK", 3))
    revenue.version = 2
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        await bus.projections.rebuild(revenue.name)
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.rollback(revenue.name)
        assert caught.value.code == "EB6010"
        assert "other code" in caught.value.why
        assert (await bus.projections.status(revenue.name)).versions == {1: "retired", 2: "active"}
        await sell(bus, ("UK", 4))
    revenue.version = 1
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        assert await bus.projections.rollback(revenue.name) == (2, 1)
        assert await revenue.rows(bus) == {"UK": (2, 7)}
        await sell(bus, ("UK", 5))
        assert await revenue.rows(bus) == {"UK": (3, 12)}


async def test_from_inline_back_to_what_followed(url: str, revenue: Sum) -> None:
    revenue.runs = "following"
    first = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await first.upgrade()
    async with first:
        await sell(first, ("UK", 3))
        await first.until_idle()
    revenue.runs = "inline"
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        await bus.projections.rebuild(revenue.name)
        await sell(bus, ("UK", 4))
    revenue.runs = "following"
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        assert await bus.projections.rollback(revenue.name) == (2, 1)
        assert await revenue.rows(bus) == {"UK": (2, 7)}
        position = await sell(bus, ("UK", 5))
        await bus.projections.wait(revenue.name, position, at_most=timedelta(seconds=30))
        assert await revenue.rows(bus) == {"UK": (3, 12)}


def _placed(cents: int) -> Placed:
    return Placed(order_id="A", country="UK", cents=cents)
