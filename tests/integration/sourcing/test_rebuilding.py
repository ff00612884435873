"""A rebuild runs beside what serves, says what would change, and switches without a gap."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus import Event, EventBus
from eventbus.errors import ProjectionError
from eventbus.sourcing.rebuild import Beat, Options, refusals
from eventbus.storage.events import Position
from eventbus.storage.projections import Difference
from eventbus.testing import assert_rebuild_equals_live
from tests.integration.sourcing.read_models import (
    LONG,
    Sum,
    sell,
    sell_many,
    stream_of,
    until,
)


async def _bus(url: str, *projections: object) -> EventBus:
    bus = EventBus("memory://", storage=url, handlers=projections)
    await bus.upgrade()
    return bus


async def _statuses(bus: EventBus, name: str) -> dict[int, str]:
    return dict((await bus.projections.status(name)).versions)


@pytest.fixture
def revenue() -> Sum:
    return Sum()


@pytest.fixture
async def busy(url: str, revenue: Sum) -> AsyncIterator[EventBus]:
    """A bus whose projection stands at the end of some thousand events."""
    async with await _bus(url, revenue.projection()) as bus:
        await sell_many(bus, 2000)
        await bus.until_idle()
        yield bus


async def test_a_rebuild_gives_the_same_rows(busy: EventBus, revenue: Sum) -> None:
    before = await revenue.rows(busy)
    beats: list[str] = []
    rebuilt = await busy.projections.rebuild(
        revenue.name, beat=lambda beat: beats.append(beat.phase)
    )
    assert (rebuilt.old, rebuilt.new, rebuilt.switched) == (1, 2, True)
    assert (rebuilt.difference.equal, rebuilt.difference.differ) == (len(before), 0)
    assert (rebuilt.difference.new, rebuilt.difference.gone) == (0, 0)
    assert await revenue.rows(busy) == before
    assert await revenue.rows(busy, f"{revenue.name}__v1") == before
    assert await _statuses(busy, revenue.name) == {1: "retired", 2: "active"}
    assert list(dict.fromkeys(beats))[:2] == ["plan", "replay"]


async def test_the_new_version_follows_and_the_old_one_writes_nothing_more(
    busy: EventBus, revenue: Sum
) -> None:
    await busy.projections.rebuild(revenue.name)
    before = await revenue.rows(busy, f"{revenue.name}__v1")
    position = await sell(busy, ("XX", 5))
    await busy.projections.wait(revenue.name, position, at_most=LONG)
    assert (await revenue.rows(busy)).get("XX") == (1, 5)
    assert await revenue.rows(busy, f"{revenue.name}__v1") == before


async def test_other_code_gives_other_rows_and_says_what_would_change(
    busy: EventBus, revenue: Sum
) -> None:
    revenue.factor = 2
    asked: list[Difference] = []

    async def confirm(difference: Difference) -> bool:
        asked.append(difference)
        return False

    before = await revenue.rows(busy)
    rebuilt = await busy.projections.rebuild(revenue.name, confirm=confirm)
    assert not rebuilt.switched
    assert asked[0].differ == len(before)
    assert asked[0].examples[0]["columns"] == ["cents"]
    assert await revenue.rows(busy) == before
    assert await _statuses(busy, revenue.name) == {1: "active", 2: "building"}
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(resume=True))
    assert rebuilt.switched
    assert await revenue.rows(busy) == {
        country: (orders, cents * 2) for country, (orders, cents) in before.items()
    }


async def test_a_difference_refuses_where_none_was_expected(busy: EventBus, revenue: Sum) -> None:
    revenue.factor = 2
    before = await revenue.rows(busy)
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name, options=Options(require_equal=True))
    assert caught.value.code == "EB6011"
    assert await revenue.rows(busy) == before


async def test_orders_that_keep_coming_in_are_counted_once(url: str) -> None:
    revenue = Sum()
    async with await _bus(url, revenue.projection()) as bus:
        await sell_many(bus, 1000)
        await bus.until_idle()
        stop = asyncio.Event()
        sold = 0

        async def storm() -> None:
            nonlocal sold
            while not stop.is_set():
                await sell(bus, ("UK", 1), ("XX", 2))
                sold += 1
                await asyncio.sleep(0)  # in memory an append hands nothing over

        writing = asyncio.create_task(storm(), name="test:storm")
        try:
            for _ in range(3):
                rebuilt = await bus.projections.rebuild(revenue.name)
                assert rebuilt.switched
            await bus.projections.rollback(revenue.name)
        finally:
            stop.set()
            await writing
        await bus.until_idle()
        assert (await revenue.rows(bus))["XX"] == (sold, sold * 2)
        assert sum(orders for orders, _ in (await revenue.rows(bus)).values()) == 1000 + 2 * sold


async def test_a_scan_in_parts_gives_the_same_rows(busy: EventBus, revenue: Sum) -> None:
    before = await revenue.rows(busy)
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(parts=4, page=100))
    assert rebuilt.rows == len(before)
    assert await revenue.rows(busy) == before


async def test_a_rollback_lets_the_old_rows_serve_and_catch_up(
    busy: EventBus, revenue: Sum
) -> None:
    before = await revenue.rows(busy)
    revenue.factor = 2
    await busy.projections.rebuild(revenue.name)
    assert await revenue.rows(busy) != before
    revenue.factor = 1
    assert await busy.projections.rollback(revenue.name) == (2, 1)
    position = await sell(busy, ("XX", 5))
    await busy.projections.wait(revenue.name, position, at_most=LONG)
    assert await revenue.rows(busy) == before | {"XX": (1, 5)}


async def test_after_a_rollback_nothing_new_is_needed_to_catch_up(
    busy: EventBus, revenue: Sum
) -> None:
    await busy.projections.rebuild(revenue.name)
    await sell(busy, ("XX", 5))
    await busy.until_idle()
    await busy.projections.rollback(revenue.name)
    await busy.until_idle()
    assert (await revenue.rows(busy)).get("XX") == (1, 5)


async def test_while_it_is_rebuilt_nothing_is_rolled_back(busy: EventBus, revenue: Sum) -> None:
    await busy.projections.rebuild(revenue.name)
    codes: list[str] = []

    async def confirm(_: Difference) -> bool:
        with pytest.raises(ProjectionError) as caught:
            await busy.projections.rollback(revenue.name)
        codes.append(caught.value.code)
        return True

    rebuilt = await busy.projections.rebuild(revenue.name, confirm=confirm)
    assert (codes, rebuilt.switched) == (["EB6004"], True)


async def test_what_serves_behind_the_new_rows_is_told_where_nobody_moves_it(
    lasting: str, revenue: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await _bus(lasting, revenue.projection())
    async with bus:
        await sell(bus, ("UK", 1))
        await bus.until_idle()
        await bus.projections.rebuild(revenue.name)
        await sell(bus, ("UK", 1))
        await bus.until_idle()
        await bus.projections.rebuild(revenue.name, options=Options(switch=False))
    monkeypatch.setattr(refusals, "TRIES", 2)
    async with bus.client():
        await bus.projections.rollback(revenue.name)  # to where it stood, and nobody follows
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6013"
    assert "no worker moves it" in caught.value.why
    async with bus:
        await bus.until_idle()
        rebuilt = await bus.projections.rebuild(revenue.name)
    assert (rebuilt.difference.equal, rebuilt.difference.new) == (1, 0)


async def test_there_is_nothing_to_roll_back_to_before_a_switch(
    busy: EventBus, revenue: Sum
) -> None:
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rollback(revenue.name)
    assert caught.value.code == "EB6010"


async def test_what_never_ran_is_not_rebuilt(url: str, revenue: Sum) -> None:
    bus = await _bus(url, revenue.projection())
    async with bus.client():
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6010"


async def test_a_second_rebuild_is_refused(busy: EventBus, revenue: Sum) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def confirm(_: Difference) -> bool:
        entered.set()
        await go_on.wait()
        return True

    first = asyncio.create_task(
        busy.projections.rebuild(revenue.name, confirm=confirm), name="test:rebuild"
    )
    await entered.wait()
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6004"
    go_on.set()
    assert (await first).switched


async def test_going_on_with_nothing_is_refused(busy: EventBus, revenue: Sum) -> None:
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name, options=Options(resume=True))
    assert caught.value.code == "EB6010"


@pytest.mark.parametrize("phase", ["plan", "replay", "index", "catch up", "verify", "switch"])
async def test_a_rebuild_that_was_cut_off_in_a_phase_is_gone_on_with(
    busy: EventBus, revenue: Sum, phase: str
) -> None:
    before = await revenue.rows(busy)

    def cut(beat: Beat) -> None:
        if beat.phase == phase:
            raise _CutOffError

    with suppress(_CutOffError):
        await busy.projections.rebuild(revenue.name, options=Options(parts=2), beat=cut)
    assert await revenue.rows(busy) == before
    position = await sell(busy, ("XX", 1))
    await busy.projections.wait(revenue.name, position, at_most=LONG)
    rebuilt = await busy.projections.rebuild(revenue.name)
    assert rebuilt.switched
    assert (rebuilt.difference.differ, rebuilt.difference.gone) == (0, 0)
    assert rebuilt.new == 2
    assert await revenue.rows(busy) == before | {"XX": (1, 1)}


class _CutOffError(Exception):
    pass


async def test_a_shadow_of_other_code_is_dropped(busy: EventBus, revenue: Sum, url: str) -> None:
    await busy.projections.rebuild(revenue.name, options=Options(switch=False))
    assert busy.storage is not None
    async with busy.storage.transaction() as tx:
        (_, built) = await tx.projections.versions(revenue.name)
        await tx.projections.drop(revenue.name, 2)
        table = revenue.projection().__declared__.rows.table
        shadow = type(table)(name=f"{table.name}__v2", key=table.key, columns={"country": str})
        others: Any = type(built)
        other = others(
            **{one: getattr(built, one) for one in built.__dataclass_fields__}
            | {"code_hash": b"other"}
        )
        await tx.projections.create(other, shadow)
    rebuilt = await busy.projections.rebuild(revenue.name)
    assert rebuilt.switched
    assert (rebuilt.difference.differ, rebuilt.difference.gone) == (0, 0)
    assert rebuilt.rows > 0


async def test_an_event_that_fails_in_the_new_code_keeps_it_from_serving(
    busy: EventBus, revenue: Sum
) -> None:
    before = await revenue.rows(busy)
    revenue.refused = {7}
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6012"
    assert await revenue.rows(busy) == before
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(allow_parked=True))
    assert (rebuilt.switched, rebuilt.parked) == (True, 1)
    assert rebuilt.difference.differ + rebuilt.difference.gone == 1
    revenue.refused = set()
    (head, *_) = await busy.parked.list()
    await busy.parked.change("release", actor="test", key=head["key"])
    await until(lambda: _rows_are(revenue, busy, before))


async def test_a_shadow_in_which_events_wait_is_begun_anew_unless_it_is_to_be_gone_on_with(
    busy: EventBus, revenue: Sum
) -> None:
    revenue.refused = {7}
    for options in (Options(), Options(resume=True)):
        with pytest.raises(ProjectionError) as caught:
            await busy.projections.rebuild(revenue.name, options=options)
        assert caught.value.code == "EB6012"
    revenue.refused = set()  # mended where nobody looks: in what the function calls
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(require_equal=True))
    assert (rebuilt.switched, rebuilt.parked) == (True, 0)
    assert await busy.parked.list() == []


async def test_an_event_that_cannot_be_decoded_stops_it_and_what_serves_is_untouched(
    busy: EventBus, revenue: Sum
) -> None:
    class Older(Event, type="shop.order-placed"):
        order_id: str

    before = await revenue.rows(busy)
    older = Older(order_id="A")
    await busy.events.append(stream_of("UK"), [older], expected="any", publish=False)
    await busy.until_idle()
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6009"
    assert "shop.order-placed does not validate: country: missing" in caught.value.why
    assert await revenue.rows(busy) == before


async def test_a_row_that_fits_no_column_stops_it(busy: EventBus, revenue: Sum) -> None:
    revenue.factor = 2**60
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6009"
    assert f"{revenue.name}.cents" in caught.value.why


async def test_a_log_that_lacks_events_is_not_rebuilt_from_unless_allowed(
    busy: EventBus, revenue: Sum
) -> None:
    await busy.events.truncate(stream_of("UK"), before=3)
    with pytest.raises(ProjectionError) as caught:
        await busy.projections.rebuild(revenue.name)
    assert caught.value.code == "EB6014"
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(allow_truncated=True))
    assert rebuilt.switched


async def test_a_rebuild_from_a_position_has_only_what_came_after(
    busy: EventBus, revenue: Sum
) -> None:
    position = await sell(busy, ("XX", 1))
    await sell(busy, ("YY", 2))
    await busy.until_idle()
    rebuilt = await busy.projections.rebuild(revenue.name, options=Options(since=position))
    assert rebuilt.difference.gone > 0
    assert await revenue.rows(busy) == {"YY": (1, 2)}


async def test_a_rebuild_from_ahead_of_the_log_is_refused_and_what_serves_stays(
    busy: EventBus, revenue: Sum
) -> None:
    before = await revenue.rows(busy)
    with pytest.raises(ProjectionError, match="ahead of the log") as caught:
        await busy.projections.rebuild(revenue.name, options=Options(since=Position(99_999)))
    assert caught.value.code == "EB6010"
    assert await revenue.rows(busy) == before


@pytest.mark.parametrize(
    "options",
    [Options(streams=("order-of-nobody",)), Options(since=datetime(2100, 1, 1, tzinfo=UTC))],
    ids=["stream", "time"],
)
async def test_a_rebuild_that_would_leave_no_row_is_not_switched_to(
    busy: EventBus, revenue: Sum, options: Options
) -> None:
    before = await revenue.rows(busy)
    with pytest.raises(ProjectionError, match="makes no row") as caught:
        await busy.projections.rebuild(revenue.name, options=options)
    assert caught.value.code == "EB6010"
    assert await revenue.rows(busy) == before


async def test_a_shadow_that_begins_elsewhere_is_made_anew(busy: EventBus, revenue: Sum) -> None:
    before = await revenue.rows(busy)
    position = await sell(busy, ("XX", 1))
    await busy.until_idle()
    options = Options(since=position, switch=False)
    assert (await busy.projections.rebuild(revenue.name, options=options)).difference.gone > 0
    rebuilt = await busy.projections.rebuild(revenue.name)
    assert (rebuilt.difference.gone, rebuilt.difference.differ) == (0, 0)
    assert await revenue.rows(busy) == before | {"XX": (1, 1)}


async def test_the_kit_asserts_that_a_replay_gives_what_serves(
    busy: EventBus, revenue: Sum
) -> None:
    rows = await revenue.rows(busy)
    assert await assert_rebuild_equals_live(busy, revenue.name) == len(rows)
    async with busy.transaction() as tx:
        await tx.sql.execute(f"UPDATE {revenue.name} SET cents = 1 WHERE country = 'UK'")
    with pytest.raises(AssertionError, match="1 differ"):
        await assert_rebuild_equals_live(busy, revenue.name)
    assert await _statuses(busy, revenue.name) == {1: "active"}


async def test_readers_never_see_a_table_that_is_not_there(busy: EventBus, revenue: Sum) -> None:
    stop = asyncio.Event()
    reads = 0

    async def reader() -> None:
        nonlocal reads
        while not stop.is_set():
            rows = await revenue.rows(busy)
            assert rows
            reads += 1
            await asyncio.sleep(0)  # in memory a read hands nothing over

    reading = asyncio.create_task(reader(), name="test:reader")
    try:
        for _ in range(2):
            await busy.projections.rebuild(revenue.name)
        await busy.projections.rollback(revenue.name)
    finally:
        stop.set()
        await reading
    assert reads > 0


async def test_a_projection_with_shards_is_rebuilt_with_another_number_of_them(url: str) -> None:
    revenue = Sum(shards=3)
    async with await _bus(url, revenue.projection()) as bus:
        sums = await sell_many(bus, 500)
        await bus.until_idle()
        rebuilt = await bus.projections.rebuild(revenue.name)
        assert rebuilt.switched
        position = await sell(bus, ("XX", 1))
        await bus.projections.wait(revenue.name, position, at_most=LONG)
        assert await revenue.rows(bus) == sums | {"XX": (1, 1)}


async def _rows_are(revenue: Sum, bus: EventBus, rows: dict[str, tuple[int, int]]) -> bool:
    return await revenue.rows(bus) == rows
