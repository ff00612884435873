"""Members that come and go, and links that lose packets or go dark: rows 13, 15 and 30."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventbus import Context, Event, EventBus, Group, subscribe
from eventbus.errors import EventBusError
from eventbus.testing.services import private_kafka, private_rabbit
from tests.faults.proxy import Blackhole, Delay, FaultProxy, Match, amqp, every, kafka, postgres
from tests.integration.brokers.conftest import FULL, SEED, Broker, long
from tests.integration.brokers.waiting import a_moment

ROUNDS = 30 if FULL else 2
KEYS = 5
FOREVER = 1 << 40  # frames
SENT_AGAIN = 0.2  # seconds: TCP repeats what was lost after so long, at least


class Placed(Event):
    order: str
    number: int


def placed(topic: str) -> type[Placed]:
    """The event on a topic of this test."""

    class OnTopic(Placed, type="shop.placed", key="order", topic=topic):
        pass

    return OnTopic


def a_bus(url: str, storage: str, event: type[Placed], group: str) -> EventBus:
    @subscribe(event, group=Group(group, timeout=timedelta(seconds=5)))
    async def handle(event: Placed, ctx: Context) -> None:
        await ctx.sql.execute(
            "INSERT INTO effects (key, number) VALUES ($1, $2)", event.order, event.number
        )

    return EventBus(url, storage=storage, handlers=[handle], service="shop")


async def prepared(storage: str) -> None:
    await EventBus("memory://", storage=storage).upgrade()
    connection = await asyncpg.connect(storage)
    try:
        await connection.execute(
            "CREATE TABLE effects (at bigserial, key text NOT NULL, number int NOT NULL)"
        )
    finally:
        await connection.close()


async def effects(storage: str) -> dict[str, list[int]]:
    """By key, in their order; no constraint hides a second one."""
    connection = await asyncpg.connect(storage)
    try:
        rows = await connection.fetch("SELECT key, number FROM effects ORDER BY at")
    finally:
        await connection.close()
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append(row["number"])
    return found


async def until_all(storage: str, count: int, within: float = 120) -> None:
    async with asyncio.timeout(within):
        while sum(map(len, (await effects(storage)).values())) < count:
            await a_moment()


def once_and_in_order(found: dict[str, list[int]], sent: Counter[str]) -> None:
    assert found == {key: list(range(count)) for key, count in sent.items()}


async def test_members_that_come_and_go_under_load_double_and_overtake_nothing(
    broker: Broker, postgres_url: str
) -> None:
    """Row 30."""
    await prepared(postgres_url)
    event, sent, is_over = placed(broker.topic), Counter[str](), False

    async def publish(bus: EventBus) -> None:
        while not is_over:
            key = f"k{sum(sent.values()) % KEYS}"
            await bus.publish(event(order=key, number=sent[key]))
            sent[key] += 1

    async with a_bus(broker.url, postgres_url, event, broker.group) as resident:
        publishing = asyncio.create_task(publish(resident), name="publisher:test")
        for _ in range(ROUNDS):
            async with a_bus(broker.url, postgres_url, event, broker.group):
                reached = sum(sent.values()) + 20
                await until_all(postgres_url, reached)
        is_over = True
        await publishing
        await until_all(postgres_url, sent.total())
        await resident.until_idle(at_most=timedelta(seconds=60))
    once_and_in_order(await effects(postgres_url), sent)


@asynccontextmanager
async def a_link(name: str) -> AsyncIterator[tuple[str, FaultProxy]]:
    """A broker of its own that is reached through a proxy only."""
    if name == "kafka":
        async with private_kafka(start=False) as server:
            async with FaultProxy(server.upstream(1), framing=kafka, seed=SEED) as link:
                server.proxy(link.port, 1)
                await server.start()
                yield f"{server.proxied_url}?provision=true&partitions=3&replication=1", link
    else:
        async with private_rabbit() as rabbit:
            parts = urlsplit(rabbit.url)
            upstream = (parts.hostname or "", parts.port or 5672)
            async with FaultProxy(upstream, framing=amqp, seed=SEED) as link:
                user = parts.netloc.rpartition("@")[0]
                yield urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{link.port}")), link


def one_in(random: Random, percent: float) -> Match:
    """As if so many packets of a hundred were lost."""
    return lambda frame: random.random() * 100 < percent


@long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("percent", [1, 5, 20])
@pytest.mark.parametrize("name", ["kafka", "rabbit"])
async def test_a_link_that_loses_packets_loses_no_message(
    name: str, percent: int, postgres_url: str
) -> None:
    """Row 15: to those who use TCP a lost packet comes late, and all behind it."""
    await prepared(postgres_url)
    event, sent, random = placed("shop"), Counter[str](), Random(SEED)
    async with a_link(name) as (url, link), a_bus(url, postgres_url, event, "billing") as bus:
        for way in ("server", "client"):
            late = Delay(SENT_AGAIN, SENT_AGAIN)
            link.rule(toward=way, when=one_in(random, percent), do=late, times=FOREVER)
        for number in range(100):
            for key in range(KEYS):
                await bus.publish(event(order=f"k{key}", number=number))
                sent[f"k{key}"] += 1
        await until_all(postgres_url, sent.total())
        assert link.hits
        link.heal()
    once_and_in_order(await effects(postgres_url), sent)


@long
async def test_a_database_that_is_out_of_reach_for_a_while_costs_nothing(
    broker: Broker, postgres_url: str
) -> None:
    """Row 13: messages stay at the broker, connections are made anew, each effect is there once."""
    await prepared(postgres_url)
    event, sent = placed(broker.topic), Counter[str]()
    parts = urlsplit(postgres_url)
    upstream = (parts.hostname or "", parts.port or 5432)
    async with FaultProxy(upstream, framing=postgres, seed=SEED) as link:
        user = parts.netloc.rpartition("@")[0]
        address = f"{user}@127.0.0.1:{link.port}".removeprefix("@")
        dark = urlunsplit(parts._replace(netloc=address, query="sslmode=disable"))
        async with (
            a_bus(broker.url, dark, event, broker.group) as bus,
            EventBus(broker.url, service="others").client() as others,
        ):
            await publish_some(others, event, sent)
            await until_all(postgres_url, sent.total())
            for way in ("server", "client"):
                link.rule(toward=way, when=every(), do=Blackhole(), times=FOREVER)
            await publish_some(others, event, sent)
            with pytest.raises(EventBusError):
                await bus.publish(event(order="nobody's", number=0))
            link.heal()
            link.cut_all()
            await until_all(postgres_url, sent.total())
            await until_well(bus)
    found = await effects(postgres_url)
    found.pop("nobody's", None)  # unknown, and said to be
    once_and_in_order(found, sent)


async def publish_some(bus: EventBus, event: type[Placed], sent: Counter[str]) -> None:
    for _ in range(50):
        for key in (f"k{number}" for number in range(KEYS)):
            await bus.publish(event(order=key, number=sent[key]))
            sent[key] += 1


async def until_well(bus: EventBus) -> None:
    causes: Sequence[str] = ()
    try:
        async with asyncio.timeout(60):
            while causes := (await bus.health()).causes:
                await a_moment()
    except TimeoutError:
        raise AssertionError(f"not well: {causes}") from None
