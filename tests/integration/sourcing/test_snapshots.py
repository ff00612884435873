"""Snapshots: taken beside the commands, of what is committed, and never the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from eventbus import Event, EventBus
from eventbus.sourcing import CommandHandler
from eventbus.sourcing.snapshots import TypeForm
from eventbus.sourcing.state import kind_of
from eventbus.storage.events import Loaded, Position, Snapshot
from tests.unit.sourcing.orders import Add, LineAdded, Order, OrderDecider, State, order_of


class Counting(OrderDecider):
    """Counts what is folded."""

    folded = 0

    def evolve(self, state: State, event: Event) -> State:
        self.folded += 1
        return super().evolve(state, event)


KIND = kind_of(Counting)
HASH = TypeForm(State, "test").hash


async def loaded(bus: EventBus, kind: str = KIND, schema_hash: bytes = HASH) -> Loaded:
    async with bus.transaction() as tx:
        return await tx.storage.events.load("order-A-1", kind=kind, schema_hash=schema_hash)


async def tell(bus: EventBus, handle: CommandHandler[Any], number: int) -> None:
    async with bus.transaction() as tx:
        await handle(Add("A-1", f"{number}", number), tx)
    await bus.until_idle()


async def test_a_snapshot_is_taken_when_so_many_events_were_read(bus: EventBus) -> None:
    decider = Counting()
    handle = CommandHandler(decider, stream=order_of, snapshot=3)
    for number in range(3):
        await tell(bus, handle, number)
    assert (await loaded(bus)).snapshot is None  # nobody had to read three yet
    await tell(bus, handle, 3)
    kept = (await loaded(bus)).snapshot
    assert kept is not None
    assert (kept.version, kept.kind) in {(3, KIND), (4, KIND)}  # beside the command
    decider.folded = 0
    await tell(bus, handle, 4)
    assert decider.folded == 4 - kept.version
    state = TypeForm(State, "test").read(kept.state)
    assert state.products == tuple(f"{number}" for number in range(kept.version))


async def test_a_snapshot_shows_what_is_committed_whatever_its_cause_became(
    bus: EventBus,
) -> None:
    handle = CommandHandler(Counting(), stream=order_of, snapshot=2)
    await tell(bus, handle, 0)
    with pytest.raises(LookupError):
        async with bus.transaction() as tx:
            for number in range(1, 5):
                await handle(Add("A-1", f"{number}", number), tx)
            raise LookupError
    await bus.until_idle()
    now = await loaded(bus)
    assert now.version == 1
    assert now.snapshot is None or now.snapshot.version == 1


async def test_a_predicate_decides(bus: EventBus) -> None:
    handle = CommandHandler(
        Counting(), stream=order_of, snapshot=lambda state, since: "2" in state.products
    )
    for number in range(3):
        await tell(bus, handle, number)
    assert (await loaded(bus)).snapshot is None
    await tell(bus, handle, 3)
    assert (await loaded(bus)).snapshot is not None


async def test_a_snapshot_of_another_schema_is_passed_over_and_replaced(bus: EventBus) -> None:
    handle = CommandHandler(Counting(), stream=order_of, snapshot=2)
    for number in range(3):
        await tell(bus, handle, number)
    old = (await loaded(bus)).snapshot
    assert old is not None

    @dataclass(frozen=True)
    class Wider(State):
        biggest: int = 0

    class Later:
        """What a new version of the code folds, under the old name."""

        def initial(self) -> Wider:
            return Wider()

        def decide(self, command: Add, state: Wider) -> Sequence[Event]:
            assert state.biggest == 2
            return [LineAdded(order_id="A-1", product=command.product, cents=command.cents)]

        def evolve(self, state: Wider, event: Event) -> Wider:
            assert isinstance(event, LineAdded)
            return replace(state, biggest=max(state.biggest, event.cents))

    Later.__module__, Later.__qualname__ = Counting.__module__, Counting.__qualname__
    await tell(bus, CommandHandler(Later(), stream=order_of, snapshot=2), 3)
    assert (await loaded(bus)).snapshot is None
    new = (await loaded(bus, schema_hash=TypeForm(Wider, "test").hash)).snapshot
    assert new is not None
    assert new.schema_hash != old.schema_hash


async def test_a_snapshot_that_cannot_be_read_is_passed_over(bus: EventBus) -> None:
    handle = CommandHandler(Counting(), stream=order_of, snapshot=100)
    for number in range(3):
        await tell(bus, handle, number)
    broken = Snapshot(kind=KIND, schema_hash=HASH, version=2, position=Position(10**6), state=b"{")
    at = (await bus.events.read("order-A-1"))[1].recorded.position
    async with bus.transaction() as tx:
        await tx.storage.events.save_snapshot("order-A-1", replace(broken, position=at))
    await tell(bus, handle, 3)
    products = [each.event.product for each in await bus.events.read("order-A-1")]  # type: ignore[attr-defined]
    assert products == ["0", "1", "2", "3"]


async def test_without_its_snapshot_a_stream_that_was_cut_goes_on(bus: EventBus) -> None:
    handle = CommandHandler(Counting(), stream=order_of, snapshot=100)
    for number in range(3):
        await tell(bus, handle, number)
    last = (await bus.events.read("order-A-1"))[-1].recorded.position
    broken = Snapshot(kind=KIND, schema_hash=HASH, version=3, position=last, state=b"{")
    async with bus.transaction() as tx:
        await tx.storage.events.save_snapshot("order-A-1", broken)
    await bus.events.truncate("order-A-1", before=4)
    await tell(bus, handle, 3)
    assert [one.recorded.version for one in await bus.events.read("order-A-1")] == [4]


async def test_a_state_that_cannot_be_kept_is_said_once_and_stops_nothing(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful:
        def initial(self) -> float:
            return 0.0

        def decide(self, command: Add, state: float) -> Sequence[Event]:
            return [LineAdded(order_id="A-1", product=command.product, cents=command.cents)]

        def evolve(self, state: float, event: Event) -> float:
            return float("nan")

    handle = CommandHandler(Forgetful(), stream=order_of, snapshot=1)
    for number in range(4):
        await tell(bus, handle, number)
    assert caplog.text.count("EB4203") == 1
    assert len(await bus.events.read("order-A-1")) == 4


async def test_an_aggregate_begins_with_its_snapshot(bus: EventBus) -> None:
    for number in range(7):
        async with bus.transaction() as tx:
            order = await Order.load("A-1", tx)
            order.add(f"{number % 2}", number)
            await order.save(tx)
        await bus.until_idle()
    async with bus.transaction() as tx:
        order = await Order.load("A-1", tx)
    assert (order.version, order.cents, order.products) == (7, 21, {"0": 12, "1": 9})
    folding = Order.__folding__
    assert folding is not None
    kept = await loaded(bus, kind_of(Order), folding.schema_hash)
    assert kept.snapshot is not None
    assert kept.snapshot.version + len(kept.tail) == 7
