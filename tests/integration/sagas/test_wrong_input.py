"""What does not fit: quarantined, parked, journalled as stray; never lost, never silent."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import BaseModel

from eventbus import Command, Event, EventBus, Reply
from eventbus.errors import SagaError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message, new_id
from eventbus.saga import Saga, cancels_on, local_step, starts_on, step, wait_step
from eventbus.sqlite import SqliteStorage
from eventbus.storage.sagas import SagaSummary
from tests.integration.sagas.rig import Clock, Rig
from tests.unit.saga.shop import OrderPlaced, OrderState, StockReserved


class Keyless(Event, type="shop.keyless", key="order_id"):
    order_id: str | None = None


class Refunded(Event, type="shop.refunded", key="order_id"):
    order_id: str


class Poked(Event, type="shop.poked", key="order_id"):
    order_id: str


broken: set[str] = set()


class Strict(Saga[OrderState], name="strict", step_timeout=timedelta(minutes=1)):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        if event.cents < 0:
            raise ValueError("less than nothing")
        return OrderState(order_id=event.order_id)

    @starts_on(Keyless)
    def begin_without(self, event: Keyless) -> OrderState:
        return OrderState(order_id=str(event.order_id))

    @local_step(no_undo="it leaves nothing behind")
    async def think(self, s: OrderState, tx: object) -> None: ...

    @wait_step(Poked, timeout=timedelta(days=9))
    def poked(self, s: OrderState, event: Poked) -> None:
        if s.order_id in broken:
            raise ZeroDivisionError

    @cancels_on(Refunded, missing="fail")
    def refunded(self, s: OrderState, event: Refunded) -> str:
        return "refunded"


class Told(Reply, type="far.told"): ...


class Tell(Command[Told], type="far.tell", key="order_id"):
    order_id: str
    text: str


class Size(BaseModel):
    order_id: str
    cents: int


class Talkative(Saga[Size], name="talkative", step_timeout=timedelta(minutes=1)):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> Size:
        return Size(order_id=event.order_id, cents=event.cents)

    @step(no_undo="what was said was said")
    def tell(self, s: Size) -> Tell:
        return Tell(order_id=s.order_id, text="x" * s.cents)


@pytest.fixture
async def strict(clock: Clock) -> AsyncIterator[Rig]:
    transport = MemoryTransport(MemoryBroker())
    bus = EventBus(transport, storage=SqliteStorage(now=clock), handlers=[Strict])
    async with bus:
        yield Rig(bus, clock)


def by_key(saga: SagaSummary) -> str:
    return saga.key


async def the_only_failure(rig: Rig) -> str:
    rows = [*await rig.bus.parked.list(), *await rig.bus.dead_letters.list()]
    (row,) = rows
    return f"{row['code']} {row['error']}"


async def test_an_event_without_a_key_is_parked(strict: Rig) -> None:
    await strict.publish(Keyless())
    assert "EB7062" in await the_only_failure(strict)


async def test_an_event_whose_saga_is_missing_fails_if_its_route_says_so(strict: Rig) -> None:
    await strict.publish(Refunded(order_id="A-1"))
    assert "EB7063" in await the_only_failure(strict)


async def test_a_start_whose_method_fails_leaves_no_saga_behind(strict: Rig) -> None:
    await strict.publish(OrderPlaced(order_id="A-1", cents=-1))
    assert "EB7002" in await the_only_failure(strict)
    assert await strict.bus.sagas.list() == []


async def test_a_start_whose_command_is_too_large_leaves_no_saga_and_its_neighbours_start(
    clock: Clock,
) -> None:
    transport = MemoryTransport(MemoryBroker())
    bus = EventBus(transport, storage=SqliteStorage(now=clock), handlers=[Talkative], service="t")
    async with bus:
        rig = Rig(bus, clock)
        async with bus.transaction() as tx:
            for number, size in enumerate((10, 3 << 20, 10)):
                await tx.publish(OrderPlaced(order_id=f"A-{number}", cents=size))
        await bus.until_idle()
        assert "EB3001" in await the_only_failure(rig)
        found = await bus.sagas.list()
        assert [(one.key, one.status, one.version) for one in sorted(found, key=by_key)] == [
            ("A-0", "running", 1),
            ("A-2", "running", 1),
        ]


async def test_an_input_that_fails_every_time_makes_its_saga_stuck_and_retry_redrives_it(
    strict: Rig,
) -> None:
    broken.add("A-9")
    await strict.publish(OrderPlaced(order_id="A-9"), Poked(order_id="A-9"))
    assert await strict.status("A-9", "strict") == "running"
    for _ in range(5):
        await strict.pass_time(1000)
    stuck = (await strict.show("A-9", "strict")).stuck
    assert stuck is not None
    assert stuck.reason == "input-failed"
    broken.clear()
    await strict.bus.sagas.retry(await strict.id_of("A-9", "strict"), actor="tests")
    await strict.bus.until_idle()
    assert await strict.status("A-9", "strict") == "completed"
    assert await strict.bus.dead_letters.list() == []


async def test_a_saga_starts_by_its_event_and_answers_its_id(strict: Rig) -> None:
    saga_id = await strict.bus.sagas.start(OrderPlaced(order_id="A-1"))
    assert saga_id == await strict.id_of("A-1", "strict")
    assert await strict.bus.sagas.start(OrderPlaced(order_id="A-1")) == saga_id
    with pytest.raises(SagaError, match="EB7002"):
        await strict.bus.sagas.start(OrderPlaced(order_id="A-2", cents=-1))
    assert await strict.bus.sagas.find("strict", "A-2") is None


async def test_an_answer_without_the_headers_of_a_saga_is_quarantined(rig: Rig) -> None:
    await tell(rig, {"sagaid": "nobody", "sagaoutcome": "succeeded"})
    assert "EB7061" in await the_only_failure(rig)


async def test_an_answer_to_a_saga_that_never_was_is_acknowledged(rig: Rig) -> None:
    headers = {"sagaid": str(uuid4()), "sagaoutcome": "succeeded", "sagaeffect": str(uuid4())}
    await tell(rig, headers)
    assert await rig.bus.parked.list() == []
    assert await rig.bus.dead_letters.list() == []


async def test_an_answer_that_nobody_asked_for_or_can_read_is_journalled(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    before = await rig.show("A-1")
    saga_id = str(before.saga.saga_id)
    for effect, kind in ((str(uuid4()), "stock.stock-reserved"), (str(uuid4()), "stock.unheard")):
        headers = {"sagaid": saga_id, "sagaoutcome": "succeeded", "sagaeffect": effect}
        await tell(rig, headers, kind)
    after = await rig.show("A-1")
    assert after.saga.status == "completed"
    details = [each.entry.detail for each in after.journal[len(before.journal) :]]
    assert [b'"ignored":"stray"' in detail for detail in details] == [True, True]


async def tell(rig: Rig, headers: dict[str, str], kind: str = "stock.stock-reserved") -> None:
    """A message to the saga, from anybody."""
    message = Message(
        id=new_id(),
        type=kind,
        source="/anybody",
        topic="place-order.replies",
        payload=StockReserved(reservation_id="R-1").model_dump_json().encode(),
        key=headers["sagaid"],
        headers=headers,
    )
    await rig.bus.transport.publish([message])
    await rig.bus.until_idle()
