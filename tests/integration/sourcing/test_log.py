"""bus.events: append, read, follow, trace; on both storages."""

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus import Context, Event, EventBus, subscribe
from eventbus.errors import (
    ConcurrencyError,
    NoTransactionError,
    SourcingError,
    StorageError,
    StreamClosedError,
    UnitOfWorkError,
    UnknownTypeError,
)
from eventbus.service import end
from eventbus.sourcing import feed, loading
from eventbus.sourcing.recorded import Recorded
from eventbus.sqlite import SqliteStorage
from eventbus.storage.events import Expected, FeedPage, Filter, Position, ReadBound
from tests.unit.sourcing import orders
from tests.unit.sourcing.orders import LineAdded, OrderPlaced, OrderShipped


def lines(*products: str, order: str = "A-1") -> list[LineAdded]:
    return [LineAdded(order_id=order, product=product, cents=1) for product in products]


def product_of(event: Event) -> str:
    assert isinstance(event, LineAdded)
    return event.product


def products_of(found: Sequence[Any]) -> list[str]:
    return [product_of(each.event) for each in found]


async def test_an_append_publishes_what_it_records(url: str) -> None:
    seen: list[tuple[str, str]] = []

    @subscribe(OrderPlaced, group="billing")
    async def bill(event: OrderPlaced, ctx: Context) -> None:
        seen.append((event.order_id, ctx.message.id))

    bus = EventBus("memory://", storage=url, handlers=[bill])
    await bus.upgrade()
    async with bus:
        loud, quiet = (OrderPlaced(order_id=order, cents=5) for order in ("A-1", "A-2"))
        appended = await bus.events.append("order-A-1", [loud], expected="absent")
        assert (appended.version, appended.repeated) == (1, False)
        await bus.events.append("order-A-2", [quiet], expected=0, publish=False)
        await bus.until_idle()
        [one] = await bus.events.read("order-A-1")
    assert seen == [("A-1", one.recorded.message.id)]


async def test_an_append_elsewhere_is_a_conflict(bus: EventBus) -> None:
    await bus.events.append("order-A-1", lines("tea"), expected="absent")
    wrong: tuple[Expected, ...] = (0, 2, "absent")
    for expected in wrong:
        with pytest.raises(ConcurrencyError):
            await bus.events.append("order-A-1", lines("milk"), expected=expected)
    await bus.events.append("order-A-1", lines("milk"), expected="present")
    assert products_of(await bus.events.read("order-A-1")) == ["tea", "milk"]


async def test_an_append_beside_a_held_unit_of_work_is_refused(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        with pytest.raises(UnitOfWorkError) as caught:
            await bus.events.append("order-A-1", lines("tea"), expected="any")
        await tx.append("order-A-1", lines("milk"), expected="any")
    assert (caught.value.code, caught.value.next) == (
        "EB4104",
        "await tx.append(…); in a handler: await ctx.append(…)",
    )
    assert "test_an_append_beside_a_held" in caught.value.where


async def test_a_stream_is_read_forwards_backwards_and_in_part(bus: EventBus) -> None:
    await bus.events.append("order-A-1", lines("a", "b", "c", "d"), expected="absent")
    read = bus.events.read
    assert products_of(await read("order-A-1")) == ["a", "b", "c", "d"]
    assert products_of(await read("order-A-1", backwards=True, limit=2)) == ["d", "c"]
    assert products_of(await read("order-A-1", after=1, before=4)) == ["b", "c"]
    assert await read("order-A-1", until=datetime(2000, 1, 1, tzinfo=UTC)) == []
    assert await read("order-none") == []


async def test_the_feed_is_read_in_pages_and_filtered(bus: EventBus) -> None:
    for number in range(3):
        await bus.events.append(f"order-{number}", lines(f"{number}"), expected="absent")
        await bus.events.append(
            f"note-{number}", [OrderShipped(order_id=f"{number}")], expected="absent"
        )
    after = Position(0)
    found: list[Recorded] = []
    while (page := await bus.events.read_all(after=after, limit=2)).read_to > after:
        assert len(page.events) <= 2
        found += page.events
        after = page.read_to
    assert [each.recorded.stream for each in found] == [
        f"{category}-{number}" for number in range(3) for category in ("order", "note")
    ]
    of_orders = await bus.events.read_all(only=Filter(category="order"))
    assert products_of(of_orders.events) == ["0", "1", "2"]
    upto = found[2].recorded.position
    assert len((await bus.events.read_all(upto=upto)).events) == 3


async def test_an_event_is_decoded_when_it_is_asked_for(bus: EventBus) -> None:
    class Foreign(Event, type="elsewhere.happened"):
        pass

    await bus.events.append("order-A-1", [Foreign(), *lines("tea")], expected="absent")
    first, second = await bus.events.read("order-A-1")
    assert second.event is second.event
    with pytest.raises(UnknownTypeError):
        _ = first.event


async def test_a_position_ahead_of_the_log_is_refused(bus: EventBus) -> None:
    appended = await bus.events.append("order-A-1", lines("tea"), expected="absent")
    ahead = Position(appended.position + 1000)
    with pytest.raises(SourcingError) as caught:
        await bus.events.read_all(after=ahead)
    assert caught.value.code == "EB4205"
    with pytest.raises(SourcingError) as caught:
        await anext(bus.events.subscribe(after=ahead))
    assert caught.value.code == "EB4205"


async def test_a_subscription_catches_up_and_goes_on(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LONG_PAGE", 3)
    for number in range(10):
        await bus.events.append("order-A-1", lines(f"{number}"), expected=number)
    seen: list[str] = []
    async with aclosing(bus.events.subscribe()) as events:
        async for each in events:
            seen.append(product_of(each.event))
            if len(seen) in {10, 11}:
                await bus.events.append("order-A-1", lines(f"{len(seen)}"), expected=len(seen))
            if len(seen) == 12:
                break
    assert seen == [f"{number}" for number in range(12)]


async def test_a_subscription_begins_where_it_is_told(bus: EventBus) -> None:
    first = await bus.events.append("order-A-1", lines("a"), expected=0)
    await bus.events.append("order-A-1", lines("b"), expected=1)
    async with aclosing(bus.events.subscribe(after=first.position)) as events:
        assert product_of((await anext(events)).event) == "b"
    now = bus.events.subscribe(after=None)
    coming = asyncio.create_task(anext(now), name="coming")
    while not coming.done():
        await bus.events.append("order-A-1", lines("c"), expected="any")
        await asyncio.sleep(0)  # in memory an append does not give way
    assert product_of((await coming).event) == "c"
    await now.aclose()


async def test_a_filtered_subscription_sees_what_it_asked_for(bus: EventBus) -> None:
    async with aclosing(bus.events.subscribe(only=Filter(types=("shop.order-shipped",)))) as events:
        coming = asyncio.create_task(anext(events), name="coming")
        await bus.events.append("order-A-1", lines(*"abc"), expected="absent")
        await bus.events.append("order-A-1", [OrderShipped(order_id="A-1")], expected=3)
        assert (await coming).event == OrderShipped(order_id="A-1")


async def test_all_subscriptions_share_one_tail_and_the_last_one_ends_it(bus: EventBus) -> None:
    def tails() -> int:
        return sum(task.get_name() == "tail:0" for task in asyncio.all_tasks())

    many = [bus.events.subscribe() for _ in range(5)]
    coming = [asyncio.create_task(anext(each), name="coming") for each in many]
    await bus.events.append("order-A-1", lines("tea"), expected="absent")
    assert products_of(await asyncio.gather(*coming)) == ["tea"] * 5
    assert tails() == 1
    for each in many:
        assert tails() == 1
        await each.aclose()
    assert tails() == 0


async def test_leaving_the_bus_ends_subscriptions(url: str) -> None:
    bus = EventBus("memory://", storage=url, handlers=[orders])
    await bus.upgrade()

    async def follow() -> list[str]:
        return [product_of(each.event) async for each in bus.events.subscribe()]

    for _ in range(2):  # and it can be entered again
        async with bus.client():
            await bus.events.append("order-A-1", lines("tea"), expected="any")
            following = asyncio.create_task(follow(), name="following")
            found = bus.events.subscribe()
            await anext(found)
            await found.aclose()
        assert (await following)[:1] in ([], ["tea"])


async def test_a_writer_in_flight_holds_its_followers_and_hides_nothing(server: str) -> None:
    """PostgreSQL only: elsewhere writers take turns."""
    bus = EventBus("memory://", storage=f"{server}?schema=held", handlers=[orders])
    await bus.upgrade()
    appended, released = asyncio.Event(), asyncio.Event()

    async def write_slowly() -> None:
        async with bus.transaction() as tx:
            await tx.append("order-slow", lines("slow"), expected="any")
            appended.set()
            await released.wait()

    async with bus:
        async with aclosing(bus.events.subscribe()) as events:
            writing = asyncio.create_task(write_slowly(), name="slow")
            await appended.wait()
            coming = asyncio.create_task(anext(events), name="coming")
            await bus.events.append("order-quick", lines("quick"), expected="any")
            assert (await bus.events.read_all()).events == []
            assert not coming.done()
            released.set()
            await writing
            assert products_of([await coming, await anext(events)]) == ["slow", "quick"]


async def test_a_flow_is_traced_and_an_event_is_found(url: str) -> None:
    @subscribe(OrderPlaced, group="shipping")
    async def ship(event: OrderPlaced, ctx: Context) -> None:
        await ctx.append(
            f"parcel-{event.order_id}", [OrderShipped(order_id=event.order_id)], expected="any"
        )

    bus = EventBus("memory://", storage=url, handlers=[orders, ship])
    await bus.upgrade()
    async with bus:
        for order in ("A-1", "A-2"):
            placed = OrderPlaced(order_id=order, cents=1)
            await bus.events.append(f"order-{order}", [placed], expected="absent")
        await bus.until_idle()
        [first] = await bus.events.read("order-A-1")
        first_id = first.recorded.message.id
        flow = await bus.events.trace(first_id)
        assert [each.recorded.stream for each in flow] == ["order-A-1", "parcel-A-1"]
        shown = await bus.events.show(first_id)
        assert shown is not None
        assert shown.recorded == first.recorded
        assert await bus.events.show("none") is None
        found = [
            each.recorded.stream
            async for each in bus.events.search(where=lambda one: one.recorded.version == 1)
        ]
        assert len(found) == 4
        parcels = bus.events.search(only=Filter(category="parcel"))
        assert {each.recorded.stream async for each in parcels} == {"parcel-A-1", "parcel-A-2"}


async def test_the_life_of_a_stream(bus: EventBus) -> None:
    await bus.events.append("order-A-1", lines(*"abcd"), expected="absent")
    await bus.events.truncate("order-A-1", before=3)
    assert products_of(await bus.events.read("order-A-1")) == ["c", "d"]
    await bus.events.archive("order-A-1")
    with pytest.raises(StreamClosedError):
        await bus.events.append("order-A-1", lines("e"), expected="any")
    assert products_of(await bus.events.read("order-A-1")) == ["c", "d"]
    await bus.events.tombstone("order-A-1")
    assert await bus.events.read("order-A-1") == []


async def test_each_change_to_a_stream_leaves_its_audit_row(bus: EventBus, url: str) -> None:
    """And what changes nothing leaves none."""
    log, name, who = bus.events, "order-A-1", {"actor": "ada", "reason": "cleaning"}
    await log.append(name, lines(*"abcd"), expected="absent")
    assert [await log.truncate(name, before=before, **who) for before in (3, 3, 2, 5)] == [
        *(True, False, False),
        True,
    ]
    assert [await log.archive(name, **who) for _ in range(2)] == [True, False]
    assert [await log.tombstone(name, **who) for _ in range(2)] == [True, False]
    assert not await log.archive(name, **who)
    table = f"{url.partition('schema=')[2]}.audit" if "schema=" in url else "eventbus_audit"
    async with bus.transaction() as tx:
        rows = await tx.sql.fetch(f"SELECT verb, selection, actor, reason FROM {table} ORDER BY id")
    told = {"place": "stream", "stream": name, "tenant": ""}
    assert [(row["verb"], json.loads(row["selection"])) for row in rows] == [
        ("truncate", {**told, "before": 3}),
        ("truncate", {**told, "before": 5}),
        ("archived", told),
        ("tombstoned", told),
    ]
    assert {(row["actor"], row["reason"]) for row in rows} == {("ada", "cleaning")}


async def test_a_stream_that_cannot_be_cut_or_closed_like_that_says_why(bus: EventBus) -> None:
    log = bus.events
    await log.append("order-A-1", lines("a"), expected="absent")
    for refused, why in [
        (log.truncate("order-B-2", before=2), "no such stream"),
        (log.archive("order-B-2"), "no such stream"),
        (log.tombstone("order-A-1", tenant="t1"), "no such stream"),
        (log.truncate("order-A-1", before=3), "ends at version 1"),
        (log.truncate("order-A-1", before=0), "versions begin at 1"),
    ]:
        with pytest.raises(StorageError, match="EB5017") as caught:
            await refused
        assert why in caught.value.why
    await log.tombstone("order-A-1")
    with pytest.raises(StorageError, match="tombstoned"):
        await log.truncate("order-A-1", before=2)


async def test_however_long_the_log_is_no_more_than_two_pages_of_it_are_kept(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LONG_PAGE", 50)
    bus = EventBus("memory://", storage=url, handlers=[orders])
    await bus.upgrade()
    kept: list[tuple[int, int]] = []
    read = 0
    async with bus:
        for number in range(10):
            await bus.events.append(f"order-{number}", lines(*["a"] * 100), expected=0)
        before = _in_memory()  # what others left for good
        async with aclosing(bus.events.search()) as found:
            async for one in found:
                read += len(product_of(one.event))
                if read % 250 == 0:
                    kept.append(_in_memory())
    assert read == 1000
    assert max(decoded - before[0] for decoded, _ in kept) <= 2 * 50
    assert max(stored - before[1] for _, stored in kept) <= 2 * 50


def _in_memory() -> tuple[int, int]:
    """Events, decoded and as they are stored, that are held by anything."""
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    stored = sum(many for kind, many in kinds.items() if kind.__name__ == "StoredEvent")
    return kinds[LineAdded], stored


async def test_others_have_turns_while_a_page_is_gone_over(url: str) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    bus = EventBus("memory://", storage=url, handlers=[orders])
    await bus.upgrade()
    async with bus:
        await bus.events.append("order-A-1", lines(*["a"] * 250), expected=0)
        other = asyncio.create_task(take_turns())
        try:
            seen = [turns async for _ in bus.events.search()]
        finally:
            await end([other])
    assert len(seen) == 250
    assert seen[0] < seen[100] < seen[200]


async def test_a_bus_without_a_storage_has_no_log() -> None:
    async with EventBus("memory://") as bus:
        with pytest.raises(NoTransactionError) as caught:
            _ = bus.events
    assert caught.value.code == "EB4105"


class Crashed(SqliteStorage):
    """A server whose sequence went back over what nobody kept, as PostgreSQL's does in a crash."""

    ahead = 0
    started = datetime(2026, 1, 1, tzinfo=UTC)

    async def read_bound(self) -> ReadBound:
        found = await super().read_bound()
        bound = Position(found.bound + self.ahead)
        return ReadBound(bound=bound, head=bound, server_started=self.started)


async def test_after_a_crash_of_the_server_a_subscription_goes_on_after_its_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, jumped = Crashed(), asyncio.Event()
    async with EventBus("memory://", storage=storage, handlers=[orders]) as bus:
        real = bus.events._feed._stored

        async def page(after: Position, limit: int, upto: Position, only: Filter) -> FeedPage:
            found = await real(after, limit, upto, only)
            if storage.ahead:
                jumped.set()
            return replace(found, read_to=upto)

        monkeypatch.setattr(bus.events._feed, "_stored", page)
        await bus.events.append("order-A-1", lines("a"), expected=0)
        async with aclosing(bus.events.subscribe()) as events:
            assert product_of((await anext(events)).event) == "a"
            coming = asyncio.create_task(anext(events), name="coming")
            storage.ahead = 10  # positions that were drawn and never committed
            await jumped.wait()
            storage.ahead, storage.started = 0, datetime(2026, 1, 2, tzinfo=UTC)
            await bus.events.append("order-A-1", lines("b"), expected=1)
            assert product_of((await coming).event) == "b"


@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (OSError("away"), True),
        (StorageError("EB5001", "away", where="here", why="restarted", next="wait"), False),
    ],
)
async def test_a_tail_goes_on_after_an_error(
    caplog: pytest.LogCaptureFixture, error: Exception, traced: bool
) -> None:
    class Flaky(SqliteStorage):
        failures = 1

        async def read_bound(self) -> ReadBound:
            if self.failures:
                self.failures -= 1
                raise error
            return await super().read_bound()

    async with EventBus("memory://", storage=Flaky(), handlers=[orders]) as bus:
        async with aclosing(bus.events.subscribe()) as events:
            coming = asyncio.create_task(anext(events), name="coming")
            await bus.events.append("order-A-1", lines("a"), expected=0)
            assert product_of((await coming).event) == "a"
    assert "the log cannot be followed for a while" in caplog.text
    assert ("Traceback" in caplog.text) == traced, "what is known needs none"


async def test_streams_are_loaded_in_bulk_and_a_broken_load_goes_on(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "COMMIT", 4)
    told: list[int] = []

    def streams(amount: int, *, broken: bool) -> Iterator[tuple[str, Sequence[Event]]]:
        for number in range(amount):
            if broken and number == 5:
                raise LookupError
            yield (
                f"order-{number}",
                [OrderPlaced(order_id=f"{number}", cents=1), OrderShipped(order_id=f"{number}")],
            )

    with pytest.raises(LookupError):
        await bus.events.load(streams(8, broken=True), tell=told.append)
    with pytest.raises(ConcurrencyError, match="EB5003"):
        await bus.events.load(streams(8, broken=False))
    assert await bus.events.load(streams(8, broken=False), skip=True) == 8
    assert told == [4, 8]
    page = await bus.events.read_all()
    assert [(each.recorded.stream, each.recorded.version) for each in page.events] == [
        (f"order-{number}", version) for number in range(8) for version in (1, 2)
    ]
    assert isinstance(page.events[0].event, OrderPlaced)
    async with bus.transaction():
        with pytest.raises(UnitOfWorkError, match="EB4104"):
            await bus.events.load([])


async def test_a_stream_is_noted_on_beside_its_events(bus: EventBus) -> None:
    assert await bus.events.head("order-N-1") is None
    with pytest.raises(StorageError, match="EB5016"):
        await bus.events.note("order-N-1", {"owner": "sales"})
    await bus.events.append(
        "order-N-1", [LineAdded(order_id="N-1", product="tea", cents=1)], expected=0
    )
    await bus.events.note("order-N-1", {"owner": "sales"})
    head = await bus.events.head("order-N-1")
    assert head is not None
    assert (head.version, head.state, dict(head.metadata)) == (1, "open", {"owner": "sales"})
    assert len(await bus.events.read("order-N-1")) == 1
