"""What a bus reports now and then: circuits, lag, rebalances, clients built anew."""

from collections.abc import Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventbus.bus.meter import Meter
from eventbus.errors import TransportError
from eventbus.pubsub.assembly import GroupServices
from eventbus.pubsub.gate import Gate
from eventbus.resilience import CircuitBreaker
from eventbus.transport import Transport
from tests.integration.figures import Figures

GROUP = (("group", "billing"),)
LAG = "consumer_lag_messages", (("topic", "shop,users"), *GROUP)


class Subscription:
    """One that has counted, and whose broker says what waits."""

    def __init__(self, rebalances: int, waiting: int | None = 0) -> None:
        self.rebalances = rebalances
        self.waiting = waiting
        self.away = False

    async def backlog(self) -> int | None:
        if self.away:
            raise TransportError("EB2001", "no broker", where="a test", why="so", next="wait")
        return self.waiting


class World:
    """A transport and a group that are measured."""

    def __init__(self) -> None:
        self.now = 0.0
        self.figures = Figures()
        self.circuit = CircuitBreaker(minimum=1, now=lambda: self.now)
        self.transport = SimpleNamespace(rebuilds=7)
        group_of = SimpleNamespace(name="billing")
        consumer = SimpleNamespace(group=group_of, topics=("shop", "users"), subscription=None)
        self.consumer = cast("Any", consumer)
        group = GroupServices(self.consumer, None, cast("Any", None), Gate(self.circuit))
        groups: Mapping[str, GroupServices] = {"billing": group}
        self.meter = Meter(
            cast("Transport", self.transport), lambda: groups, self.figures, scheme="kafka"
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_the_circuit_of_a_group_is_reported_in_each_state(world: World) -> None:
    states = []
    for happens in (None, "a failure", "the pause ends"):
        if happens == "a failure":
            world.circuit.record(ok=False)
        elif happens is not None:
            world.now += timedelta(seconds=30).total_seconds()
        await world.meter.report()
        states.append(world.figures.gauges["circuit_state", GROUP])
    assert states == [0, 2, 1]


async def test_rebalances_are_counted_across_subscriptions(world: World) -> None:
    first = world.consumer.subscription = Subscription(rebalances=1)
    await world.meter.report()
    await world.meter.report()
    first.rebalances = 3
    await world.meter.report()
    world.consumer.subscription = Subscription(rebalances=4)
    await world.meter.report()
    assert world.figures.of("rebalances_total") == {GROUP: 7}


async def test_clients_built_anew_count_from_when_the_bus_was_entered(world: World) -> None:
    await world.meter.report()
    assert world.figures.of("client_rebuilds_total") == {}
    world.transport.rebuilds = 9
    await world.meter.report()
    await world.meter.report()
    assert world.figures.of("client_rebuilds_total") == {(("transport", "kafka"),): 2}


async def test_the_last_lag_stays_while_the_broker_does_not_say(world: World) -> None:
    await world.meter.report()
    assert LAG not in world.figures.gauges
    subscription = world.consumer.subscription = Subscription(rebalances=0, waiting=5)
    await world.meter.report()
    subscription.waiting = None
    await world.meter.report()
    subscription.away = True
    await world.meter.report()
    assert world.figures.gauges[LAG] == 5
    subscription.away, subscription.waiting = False, 0
    await world.meter.report()
    assert world.figures.gauges[LAG] == 0
