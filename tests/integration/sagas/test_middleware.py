"""Middleware goes around what a saga takes: once for a batch, and again where one runs alone."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.handler import Invocation
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from tests.integration.sagas.rig import Clock, Rig
from tests.unit.saga.shop import OrderPlaced, PlaceOrder


class Around:
    """Notes the calls of the saga; refuses the first ones, or does not go on."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, str]] = []
        self.refuses = 0
        self.goes_on = True

    async def __call__(self, invocation: Invocation, call_next: Any) -> None:
        what = invocation.what
        size = len(what) if isinstance(what, Sequence) else 0
        self.calls.append((invocation.handler.__name__, size, invocation.context.message.key or ""))
        if self.refuses:
            self.refuses -= 1
            raise ConnectionError("not now")
        if self.goes_on:
            await call_next(invocation)


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
async def orders(clock: Clock, around: Around) -> AsyncIterator[Rig]:
    bus = EventBus(
        MemoryTransport(MemoryBroker()),
        storage=SqliteStorage(now=clock),
        handlers=[PlaceOrder],
        middleware=[around],
    )
    async with bus:
        yield Rig(bus, clock)


async def placed(rig: Rig, *keys: str) -> None:
    """At once, so that they come in one batch; those of one lane."""
    async with rig.bus.transaction() as tx:
        for key in keys:
            await tx.publish(OrderPlaced(order_id=key))
    await rig.bus.until_idle()


async def test_a_batch_is_one_call_under_the_name_of_its_saga(orders: Rig, around: Around) -> None:
    keys = [f"A-{number}" for number in range(10)]
    await placed(orders, *keys)
    assert {name for name, _, _ in around.calls} == {"place-order"}
    assert sum(size for _, size, _ in around.calls) == len(keys)
    assert len(around.calls) < len(keys)
    assert {one.key for one in await orders.bus.sagas.list()} == set(keys)


async def test_a_batch_that_middleware_fails_runs_one_by_one(orders: Rig, around: Around) -> None:
    around.refuses = 1
    keys = [f"A-{number}" for number in range(10)]
    await placed(orders, *keys)
    first, *others = [size for _, size, _ in around.calls]
    assert first > 1
    assert others.count(1) >= first
    assert {one.key for one in await orders.bus.sagas.list()} == set(keys)
    assert await orders.bus.parked.list() == []


async def test_what_middleware_keeps_from_a_saga_is_done(orders: Rig, around: Around) -> None:
    around.goes_on = False
    await placed(orders, "A-1", "A-2")
    assert await orders.bus.sagas.list() == []
    assert await orders.bus.parked.list() == []
