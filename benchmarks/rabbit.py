"""N2, N3, N4: publishing, consuming, end to end on RabbitMQ; quorum queues, confirms, persistent.

The base of each bar is aio-pika as its documentation advises, in the same round, on the same kind
of queue, with the same body. The broker is that of `python -m eventbus.testing.services up rabbit`;
its own CPU time is not in the figures, but on a small machine it is in the rates.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from benchmarks.in_memory import IN_FLIGHT, Count, measured, on_all
from benchmarks.measure import Clock
from benchmarks.message import OrderFields, OrderPlaced, orders, raw_orders
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import EventBus, subscribe
from eventbus.testing.services import running
from eventbus.testing.services.rabbitmq import create_vhost, delete_vhost
from eventbus.transport import Interest
from eventbus_rabbit import RabbitConfig, RabbitTransport

N = 20_000
PREFETCH = 100
TYPE = "bench.order-placed"
QUORUM = {"x-queue-type": "quorum"}
Work = Callable[[str, int, Clock], Awaitable[None]]


def publishing() -> Bar:
    """N2: confirmed publishes of 100 tasks."""
    return Bar(
        name="N2",
        what=f"RabbitMQ publish, confirms, {IN_FLIGHT} in flight",
        ratio_of="cpu_us",
        cases=[
            _case("N2", "aio-pika", publish_by_aio_pika),
            _case("N2", "aiormq", publish_by_aiormq),
            _case("N2", "eventbus, typed", publish_by_eventbus, at_most=50.0),
            *_peer("N2", "published_to_rabbit"),
        ],
    )


def consuming() -> Bar:
    """N3: a queue that is full already; every message is decoded, handled, acknowledged."""
    return Bar(
        name="N3",
        what=f"RabbitMQ consume and ack, typed handler, prefetch {PREFETCH}",
        ratio_of="cpu_us",
        cases=[
            _case("N3", "aio-pika, ack each", consume_by_aio_pika),
            _case("N3", "aiormq, ack by 50", consume_by_aiormq),
            _case("N3", "eventbus, typed", consume_by_eventbus, at_most=65.0),
            *_peer("N3", "consumed_from_rabbit"),
        ],
    )


def end_to_end() -> Bar:
    """N4: from the publish to the handler, publisher and consumer in one process."""
    return Bar(
        name="N4",
        what=f"RabbitMQ end to end, {IN_FLIGHT} in flight",
        ratio_of="cpu_us",
        cases=[
            _case("N4", "aio-pika", end_to_end_by_aio_pika),
            _case("N4", "eventbus, typed", end_to_end_by_eventbus, at_most=170.0),
            *_peer("N4", "through_rabbit"),
        ],
    )


def _case(bar: str, name: str, work: Work, *, at_most: float | None = None) -> Case:
    goal = None if at_most is None else Goal(figure="cpu_us", at_most=at_most)
    return Case(bar=bar, name=name, n=N, run=_on_a_vhost(work), goal=goal)


def _peer(bar: str, work: str) -> list[Case]:
    """FastStream, where it is installed."""
    if find_spec("faststream") is None:
        return []
    from benchmarks import faststream_peer

    return [_case(bar, "FastStream", getattr(faststream_peer, work))]


def _on_a_vhost(work: Work) -> Callable[[int], Figures]:
    """Each run has an empty broker of its own."""

    def run(n: int) -> Figures:
        with running("rabbit") as server:
            url = create_vhost(server.url)
            try:
                return measured(lambda count, clock: work(url, count, clock))(n)
            finally:
                delete_vhost(url)

    return run


@dataclass(frozen=True)
class Raw:
    """What one writes without a framework: an exchange, a queue, models as JSON."""

    channel: Any
    exchange: Any
    queue: Any


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Raw]:
    """By aio-pika."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.set_qos(prefetch_count=PREFETCH)
        exchange = await channel.declare_exchange("bench", "topic", durable=True)
        queue = await channel.declare_queue("bench", durable=True, arguments=dict(QUORUM))
        await queue.bind(exchange, TYPE)
        yield Raw(channel, exchange, queue)


def a_raw_message(model: OrderFields) -> aio_pika.Message:
    """Persistent, with the headers that ours has."""
    return aio_pika.Message(
        model.model_dump_json().encode(),
        content_type="application/json",
        message_id=str(model.order_id),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={"ce-specversion": "1.0", **raw_headers(model)},
    )


def raw_headers(model: OrderFields) -> dict[str, Any]:
    """Of the same number and length as ours."""
    return {
        "ce-id": str(model.order_id),
        "ce-type": TYPE,
        "ce-source": "/bench",
        "ce-partitionkey": str(model.order_id),
        "ce-time": "2026-01-02T03:04:05.678901Z",
        "ce-dataschema": f"urn:eventbus:schema:{TYPE}:1",
    }


async def publish_by_aio_pika(url: str, n: int, clock: Clock) -> None:
    """Its `publish`, from a hundred tasks."""
    async with raw(url) as made:
        await publish_raw(made, raw_orders(n), clock, Count(0))


async def publish_raw(made: Raw, models: list[OrderFields], clock: Clock, count: Count) -> None:
    async def publish(model: OrderFields) -> None:
        await made.exchange.publish(a_raw_message(model), TYPE, mandatory=True)

    if not count.left:
        count.all.set()
    await on_all(iter(models), publish, clock, IN_FLIGHT, count)


async def publish_by_aiormq(url: str, n: int, clock: Clock) -> None:
    """The same one floor below."""
    async with raw(url) as made:
        connection = await aiormq.connect(url)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        models, count = raw_orders(n), Count(0)
        count.all.set()
        assert made.queue is not None

        async def publish(model: OrderFields) -> None:
            await channel.basic_publish(
                model.model_dump_json().encode(),
                exchange="bench",
                routing_key=TYPE,
                mandatory=True,
                properties=Basic.Properties(
                    content_type="application/json",
                    delivery_mode=2,
                    message_id=str(model.order_id),
                    headers={"ce-specversion": "1.0", **raw_headers(model)},
                ),
            )

        await on_all(iter(models), publish, clock, IN_FLIGHT, count)
        await connection.close()


async def publish_by_eventbus(url: str, n: int, clock: Clock) -> None:
    """`bus.publish` without a storage: it returns with the broker's confirm."""
    count = Count(0)
    count.all.set()
    transport = a_transport(url)
    async with EventBus(transport, service="bench", handlers=[]) as bus:
        await transport.examine([INTEREST])
        await on_all(iter(orders(n)), bus.publish, clock, IN_FLIGHT, count)


INTEREST = Interest(group="bench", topics=("bench",), types=(TYPE,))


def a_transport(url: str) -> RabbitTransport:
    """With the prefetch of the raw cases."""
    return RabbitTransport(RabbitConfig.from_url(f"{url}?prefetch={PREFETCH}", "bench"))


async def consume_by_aio_pika(url: str, n: int, clock: Clock) -> None:
    """A callback that decodes and acknowledges."""
    async with raw(url) as made:
        await publish_raw(made, raw_orders(n), Clock(), Count(0))
        count = Count(n)
        with clock:
            await made.queue.consume(_handling(count))
            await count.all.wait()


def _handling(count: Count) -> Callable[[Any], Awaitable[None]]:
    async def handle(message: Any) -> None:
        OrderFields.model_validate_json(message.body)
        await message.ack()
        count.one()

    return handle


async def consume_by_aiormq(url: str, n: int, clock: Clock) -> None:
    """The same one floor below; one ack for fifty."""
    async with raw(url) as made:
        await publish_raw(made, raw_orders(n), Clock(), Count(0))
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        await channel.basic_qos(prefetch_count=PREFETCH)
        count = Count(n)

        async def handle(message: DeliveredMessage) -> None:
            OrderFields.model_validate_json(message.body)
            count.one()
            if count.left % 50 == 0:
                tag = cast("int", message.delivery_tag)
                await channel.basic_ack(tag, multiple=True, wait=False)

        with clock:
            await channel.basic_consume("bench", handle)
            await count.all.wait()
        await connection.close()


async def consume_by_eventbus(url: str, n: int, clock: Clock) -> None:
    """A typed handler of a group without a storage; the clock runs from before it joins."""
    count = Count(n)

    @subscribe(OrderPlaced, group="bench")
    async def handle(event: OrderPlaced) -> None:
        count.one()

    await fill(url, orders(n))
    with clock:
        async with EventBus(a_transport(url), service="bench", handlers=[handle]):
            await count.all.wait()


async def fill(url: str, events: list[OrderPlaced]) -> None:
    transport = a_transport(url)
    async with EventBus(transport, service="bench", handlers=[]) as bus:
        await transport.examine([INTEREST])
        items: Iterator[OrderPlaced] = iter(events)

        async def work() -> None:
            for event in items:
                await bus.publish(event)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def end_to_end_by_aio_pika(url: str, n: int, clock: Clock) -> None:
    """Publisher and consumer on a connection each."""
    count = Count(n)
    async with raw(url) as made, raw(url) as other:
        await other.queue.consume(_handling(count))
        await publish_raw(made, raw_orders(n), clock, count)


async def end_to_end_by_eventbus(url: str, n: int, clock: Clock) -> None:
    """The whole bus, without a storage."""
    count = Count(n)

    @subscribe(OrderPlaced, group="bench")
    async def handle(event: OrderPlaced) -> None:
        count.one()

    async with EventBus(a_transport(url), service="bench", handlers=[handle]) as bus:
        await on_all(iter(orders(n)), bus.publish, clock, IN_FLIGHT, count)
