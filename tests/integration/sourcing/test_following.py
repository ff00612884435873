"""A projection follows the log: rows and checkpoint together, failures parked, the others go on."""

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from eventbus import Event, EventBus
from eventbus.errors import ProjectionError, StorageError, UnsafeConfigurationError, WiringError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sourcing.redelivery import ForgottenEventError
from eventbus.storage.events import Position
from eventbus.testing import assert_rebuild_equals_live
from eventbus.testing.conformance.samples import unique
from tests.integration.sourcing.read_models import (
    LONG,
    Journal,
    Sum,
    sell,
    sell_many,
    stream_of,
    until,
)
from tests.unit.sourcing.declarations import Placed, Withdrawn


async def bus_of(url: str, *projections: object) -> EventBus:
    bus = EventBus("memory://", storage=url, handlers=projections)
    await bus.upgrade()
    return bus


async def test_what_is_recorded_is_in_the_read_model(url: str) -> None:
    revenue = Sum()
    async with await bus_of(url, revenue.projection()) as bus:
        position = await sell(bus, ("UK", 5), ("FR", 7), ("UK", 1))
        await bus.projections.wait(revenue.name, position, at_most=LONG)
        assert await revenue.rows(bus) == {"UK": (2, 6), "FR": (1, 7)}
        row = await bus.projections.get(revenue.name, "UK")
        assert row is not None
        assert row.model_dump()["last"] == "UK-2"
        assert await bus.projections.get(revenue.name, "DE") is None


async def test_a_row_is_deleted_and_begins_anew(url: str) -> None:
    revenue = Sum()
    async with await bus_of(url, revenue.projection()) as bus:
        await sell(bus, ("UK", 5))
        gone = Withdrawn(order_id="UK-0", country="UK")
        await bus.events.append(stream_of("UK"), [gone], expected="any", publish=False)
        await bus.until_idle()
        assert await revenue.rows(bus) == {}
        await sell(bus, ("UK", 3))
        await bus.until_idle()
        assert await revenue.rows(bus) == {"UK": (1, 3)}


async def test_it_goes_on_where_it_stood(lasting: str) -> None:
    revenue = Sum()
    async with await bus_of(lasting, revenue.projection()) as bus:
        await sell(bus, ("UK", 5))
        await bus.until_idle()
    async with (await bus_of(lasting)).client() as bus:
        await bus.events.append(stream_of("UK"), [_placed("UK", 2)], expected="any", publish=False)
    async with await bus_of(lasting, revenue.projection()) as bus:
        await bus.until_idle()
        assert await revenue.rows(bus) == {"UK": (2, 7)}


async def test_thousands_of_events_are_summed(url: str) -> None:
    revenue = Sum(shards=3)
    async with await bus_of(url, revenue.projection()) as bus:
        sums = await sell_many(bus, 3000)
        await bus.until_idle()
        assert await revenue.rows(bus) == sums
        standing = await bus.projections.status(revenue.name)
        assert (standing.lag_events, standing.cause, standing.shards) == (0, None, 3)


async def test_a_failing_event_parks_its_row_and_the_others_go_on(url: str) -> None:
    revenue = Sum()
    revenue.refused = {13}
    async with await bus_of(url, revenue.projection()) as bus:
        last = await sell(bus, ("UK", 1), ("UK", 13), ("FR", 2), ("UK", 3), ("FR", 4))
        await bus.until_idle()
        await sell(bus, ("UK", 5))
        await bus.until_idle()
        assert await revenue.rows(bus) == {"UK": (1, 1), "FR": (2, 6)}
        parked = await bus.parked.list()
        assert [(row["key"], row["attempts"]) for row in parked] == [
            ("row:UK", 1),
            ("row:UK", 0),
            ("row:UK", 0),
        ]
        standing = await bus.projections.status(revenue.name)
        assert standing.parked == 1
        assert "row:UK" in str(standing.cause)
        await bus.projections.wait(revenue.name, last, at_most=LONG)
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.wait(revenue.name, Position(last - 1))
        assert caught.value.code == "EB6006"
        revenue.refused.clear()
        await bus.parked.change("release", actor="test", key="row:UK")
        await until(lambda: _rows_are(revenue, bus, {"UK": (4, 22), "FR": (2, 6)}))
        await bus.until_idle()
        assert await bus.parked.list() == []
        await sell(bus, ("UK", 1))
        await bus.until_idle()
        assert (await revenue.rows(bus))["UK"] == (5, 23)


class Shipped(Event, type="shop.shipped", key="order_id"):
    order_id: str
    countries: tuple[str, ...]


async def test_an_event_of_several_rows_waits_for_the_one_that_fails_alone(url: str) -> None:
    name = unique("places")
    refused = {"FR"}

    class Place(ReadModel, table=name, key="country"):
        country: str
        parcels: int = 0

    class Places(FoldingProjection[Place], name=name, shards=2):
        @projects(Shipped, keys=lambda event: event.countries)
        def shipped(self, row: Place, event: Shipped) -> Place:
            if row.country in refused:
                raise ValueError(f"nothing goes to {row.country}")
            return row.model_copy(update={"parcels": row.parcels + 1})

    async def parcels(bus: EventBus) -> dict[str, int]:
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch(f"SELECT country, parcels FROM {name}")
        return {row["country"]: row["parcels"] for row in rows}

    async with await bus_of(url, Places) as bus:
        for number, countries in enumerate((("UK", "FR", "DE"), ("FR", "UK"), ("DE",))):
            event = Shipped(order_id=str(number), countries=countries)
            await bus.events.append(f"van-{number}", [event], expected="absent", publish=False)
        await bus.until_idle()
        assert await parcels(bus) == {"UK": 2, "DE": 2}
        assert [row["key"] for row in await bus.parked.list()] == ["row:FR", "row:FR"]
        refused.clear()
        await bus.parked.change("release", actor="test", key="row:FR")

        async def all_there() -> bool:
            return await parcels(bus) == {"UK": 2, "DE": 2, "FR": 2}

        await until(all_there)
        await bus.until_idle()
        assert await assert_rebuild_equals_live(bus, name) == 3


async def test_what_keeps_failing_is_a_dead_letter_and_is_redriven_in_order(url: str) -> None:
    revenue = Sum()
    revenue.refused = {13}
    async with await bus_of(url, revenue.projection()) as bus:
        await sell(bus, ("UK", 13), ("UK", 3))
        await bus.until_idle()
        (head, _) = await bus.parked.list()
        await bus.parked.change("bury", actor="test", ids=[head["id"]])
        await sell(bus, ("FR", 1))
        await bus.until_idle()
        assert await revenue.rows(bus) == {"FR": (1, 1)}
        assert [row["key"] for row in await bus.dead_letters.list()] == ["row:UK"]
        revenue.refused.clear()
        await bus.dead_letters.change("redrive", actor="test")
        await until(lambda: _rows_are(revenue, bus, {"UK": (2, 16), "FR": (1, 1)}))


async def test_a_parked_event_that_fails_again_is_tried_later_and_logged_each_time(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    revenue = Sum()
    revenue.refused = {13, 14}
    async with await bus_of(url, revenue.projection()) as bus:
        await sell(bus, ("UK", 13), ("UK", 3), ("UK", 14))
        await bus.until_idle()
        revenue.refused = {14}
        await bus.parked.change("release", actor="test", key="row:UK")
        await until(lambda: _rows_are(revenue, bus, {"UK": (2, 16)}))
        (left,) = await bus.parked.list()
        assert (left["attempts"], left["error_type"]) == (1, "ValueError")
        await bus.parked.change("release", actor="test", key="row:UK")
        await until(lambda: _attempts_are(bus, 2))
        assert await revenue.rows(bus) == {"UK": (2, 16)}
    told = [each.message for each in caplog.records if "row:UK waits" in each.message]
    assert len(told) >= 3
    assert all(revenue.name in one and "is parked for" in one for one in told)


async def test_who_takes_over_knows_which_rows_are_held_back(lasting: str) -> None:
    revenue = Sum()
    revenue.refused = {13}
    async with await bus_of(lasting, revenue.projection()) as bus:
        await sell(bus, ("UK", 13))
        await bus.until_idle()
    revenue.refused = set()
    async with await bus_of(lasting, revenue.projection()) as bus:
        await sell(bus, ("UK", 3), ("FR", 1))
        await bus.until_idle()
        assert await revenue.rows(bus) == {"FR": (1, 1)}


async def test_two_workers_share_the_shards_and_each_event_counts_once(lasting: str) -> None:
    if lasting.startswith("sqlite"):
        pytest.skip("capability shared: one process owns the file")
    revenue = Sum(shards=4)
    first, second = (
        await bus_of(lasting, revenue.projection()),
        await bus_of(lasting, revenue.projection()),
    )
    async with first, second:
        sums = await sell_many(first, 2000)
        await until(lambda: _rows_are(revenue, first, sums))
        more = await sell_many(second, 500)
        wanted = {
            country: (sums.get(country, (0, 0))[0] + orders, sums.get(country, (0, 0))[1] + cents)
            for country, (orders, cents) in more.items()
        }
        await until(lambda: _rows_are(revenue, second, sums | wanted))
        assert (await first.projections.status(revenue.name)).parked == 0


async def test_it_is_not_idle_while_nobody_could_take_its_shards(lasting: str) -> None:
    if lasting.startswith("sqlite"):
        pytest.skip("capability concurrent: no row is locked against a reader")
    revenue = Sum()
    async with await bus_of(lasting, revenue.projection()) as bus:
        await sell(bus, ("UK", 3))
        await bus.until_idle()
    leases = f"{parse_qs(urlsplit(lasting).query)['schema'][0]}.leases"
    bus, other = await bus_of(lasting, revenue.projection()), await bus_of(lasting)
    async with other.client():
        assert other.storage is not None
        async with other.storage.transaction() as tx:
            await tx.sql.fetch(
                f"SELECT 1 FROM {leases} WHERE name = $1 FOR UPDATE",
                f"projection/{revenue.name}@1/0",
            )
            async with bus:
                await sell(bus, ("UK", 4))
                with pytest.raises(TimeoutError):
                    await bus.until_idle(at_most=timedelta(seconds=0.5))
        async with bus:
            await bus.until_idle()
            assert await revenue.rows(bus) == {"UK": (2, 7)}


async def test_an_event_that_cannot_be_decoded_parks_its_stream(url: str) -> None:
    class Older(Event, type="shop.order-placed"):
        order_id: str

    revenue = Sum()
    bus = await bus_of(url, revenue.projection())
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.append(stream_of("UK"), [_placed("UK", 1)], expected="any", publish=False)
            await tx.append(stream_of("UK"), [Older(order_id="A")], expected="any", publish=False)
            await tx.append(stream_of("UK"), [_placed("UK", 2)], expected="any", publish=False)
            await tx.append(stream_of("FR"), [_placed("FR", 3)], expected="any", publish=False)
    async with bus:
        await bus.until_idle()
        assert await revenue.rows(bus) == ({"UK": (1, 1), "FR": (1, 3)})
        (dead, *_) = await bus.dead_letters.list()
        assert (dead["key"], dead["reason"]) == ("stream:country-UK", "quarantined")
        await bus.dead_letters.change("discard", actor="test", ids=[dead["id"]])
        await until(lambda: _rows_are(revenue, bus, {"UK": (2, 3), "FR": (1, 3)}))


async def test_a_value_that_fits_no_column_parks_its_row(url: str) -> None:
    revenue = Sum()
    async with await bus_of(url, revenue.projection()) as bus:
        await sell(bus, ("UK", 2**62), ("UK", 2**62), ("FR", 1))
        await bus.until_idle()
        assert await revenue.rows(bus) == {"UK": (1, 2**62), "FR": (1, 1)}
        (parked,) = await bus.parked.list()
        assert f"{revenue.name}.cents" in parked["error"]


async def test_a_parked_event_whose_stream_was_cut_is_a_failure_too(url: str) -> None:
    revenue = Sum()
    revenue.refused = {13}
    async with await bus_of(url, revenue.projection()) as bus:
        await sell(bus, ("UK", 13))
        await bus.until_idle()
        assert bus.storage is not None
        await bus.events.truncate(stream_of("UK"), before=2)
        await bus.storage.prune(inbox=timedelta(days=7), limit=100)
        await bus.parked.change("release", actor="test", key="row:UK")
        await until(lambda: _attempts_are(bus, 2))
        (left,) = await bus.parked.list()
        assert left["error_type"].endswith(ForgottenEventError.__name__)


async def test_the_general_form_writes_in_the_transaction_of_its_checkpoint(url: str) -> None:
    journal = Journal()
    bus = await bus_of(url, journal)
    async with bus.client():
        await journal.create(bus)
    async with bus:
        journal.refused = {13}
        await sell(bus, ("UK", 1), ("UK", 13), ("UK", 2), ("FR", 3))
        await bus.until_idle()
        assert await journal.cents(bus) == [1, 3]
        assert [row["key"] for row in await bus.parked.list()] == ["stream:country-UK"] * 2
        journal.refused = set()
        await bus.parked.change("release", actor="test", key="stream:country-UK")
        await until(lambda: _cents_are(journal, bus, [1, 13, 2, 3]))


async def test_effects_begin_with_the_first_version_and_not_in_the_past(lasting: str) -> None:
    journal, broker = Journal(), MemoryBroker()
    journal.announces = Withdrawn
    async with (await bus_of(lasting, journal)).client() as bus:
        await journal.create(bus)
        await sell(bus, ("UK", 1), ("UK", 2))
    bus = EventBus(MemoryTransport(broker), storage=lasting, handlers=[journal])
    async with bus:
        await bus.until_idle()
        await sell(bus, ("FR", 3))
        await bus.until_idle()
        assert await journal.cents(bus) == [1, 2, 3]
    assert journal.replayed == [1, 2]
    assert len(broker.published("shop")) == 1


async def test_who_waits_where_the_rows_are_written_is_told_without_asking_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = timedelta(hours=1).total_seconds()
    monkeypatch.setattr("eventbus.sourcing.waiting.SHORTEST_SECONDS", never)
    revenue = Sum()
    async with await bus_of(url, revenue.projection()) as bus:
        for cents in range(5):
            position = await sell(bus, ("UK", cents))
            await bus.projections.wait(revenue.name, position, at_most=timedelta(seconds=30))
        assert await revenue.rows(bus) == {"UK": (5, 10)}


async def test_waiting_for_what_is_not_there_says_why(url: str) -> None:
    revenue = Sum()
    bus = await bus_of(url, revenue.projection())
    async with bus.client():
        position = await sell(bus, ("UK", 5))
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.wait(revenue.name, position, at_most=timedelta())
        assert caught.value.code == "EB6005"
        assert "never ran" in caught.value.why


async def test_a_misspelt_projection_is_told(url: str) -> None:
    revenue = Sum()
    async with await bus_of(url, revenue.projection()) as bus:
        with pytest.raises(ProjectionError) as caught:
            await bus.projections.status(revenue.name[:-1] + "x")
        assert caught.value.code == "EB6007"
        assert revenue.name in caught.value.next


async def test_a_paused_projection_stands_still_until_it_is_resumed(lasting: str) -> None:
    revenue = Sum()
    bus = await bus_of(lasting, revenue.projection())
    async with bus.client():
        await bus.projections.pause(revenue.name, actor="test")
    async with bus:
        await sell(bus, ("UK", 5))
        await bus.until_idle()
        standing = await bus.projections.status(revenue.name)
        assert set(standing.positions.values()) == {Position(0)}
        assert await bus.projections.resume(revenue.name, actor="test") == 1
        await until(lambda: _rows_are(revenue, bus, {"UK": (1, 5)}))


async def test_another_key_function_on_old_rows_is_refused(lasting: str) -> None:
    revenue = Sum()
    async with await bus_of(lasting, revenue.projection()) as bus:
        await sell(bus, ("UK", 5))
        await bus.until_idle()
    revenue.version = 2
    async with await bus_of(lasting, revenue.projection()) as bus:
        await sell(bus, ("UK", 5))
        await until(lambda: _is_troubled(bus, revenue))
        assert await revenue.rows(bus) == {"UK": (1, 5)}


async def test_a_table_of_somebody_else_is_left_alone(lasting: str) -> None:
    revenue = Sum()
    bus = await bus_of(lasting, revenue.projection())
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.sql.execute(f"CREATE TABLE {revenue.name} (mine text)")
    async with bus:
        await until(lambda: _is_troubled(bus, revenue))
        health = await bus.health()
        assert not health.ready
        assert "stands there" in str(health.causes)


async def test_what_runs_live_is_folded_when_it_is_read(url: str) -> None:
    revenue = Sum(runs="live")
    async with await bus_of(url, revenue.projection()) as bus:
        await sell(bus, ("UK", 5), ("FR", 7), ("UK", 1))
        row = await bus.projections.get(revenue.name, "UK")
        assert row is not None
        assert row.model_dump()["cents"] == 6
        assert await bus.projections.get(revenue.name, "DE") is None


async def test_a_projection_without_a_storage_is_refused() -> None:
    bus = EventBus("memory://", handlers=[Sum().projection()])
    with pytest.raises(UnsafeConfigurationError) as caught:
        async with bus:
            pass
    assert caught.value.code == "EB1264"


def test_what_writes_by_itself_only_follows() -> None:
    journal = Journal()
    journal.runs = "inline"
    with pytest.raises(WiringError) as caught:
        EventBus("memory://", storage="sqlite://", handlers=[journal])
    assert caught.value.code == "EB1265"


def test_two_projections_of_one_name_are_refused_when_the_bus_is_built() -> None:
    revenue = Sum()
    with pytest.raises(WiringError) as caught:
        EventBus(
            "memory://",
            storage="sqlite://",
            handlers=[revenue.projection(), revenue.projection()],
        )
    assert caught.value.code == "EB1263"


def _placed(country: str, cents: int) -> Placed:
    return Placed(order_id="A", country=country, cents=cents)


async def _rows_are(revenue: Sum, bus: EventBus, rows: dict[str, tuple[int, int]]) -> bool:
    try:
        return await revenue.rows(bus) == rows
    except StorageError:  # it has no table yet
        return False


async def _cents_are(journal: Journal, bus: EventBus, cents: list[int]) -> bool:
    return await journal.cents(bus) == cents


async def _attempts_are(bus: EventBus, attempts: int) -> bool:
    return [row["attempts"] for row in await bus.parked.list()][:1] == [attempts]


async def _is_troubled(bus: EventBus, revenue: Sum) -> bool:
    health = await bus.health()
    return any(cause.startswith(f"projection:{revenue.name}") for cause in health.causes)
