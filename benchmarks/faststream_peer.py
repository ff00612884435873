"""FastStream beside N2 to N5b, set up as its documentation advises: same queues, bodies, prefetch.

Its acks and commits are those of its own choice: on RabbitMQ one ack per message; on Kafka the
offsets are committed in the background, which loses what a crash interrupts.
"""

import logging

from faststream import AckPolicy  # type: ignore[import-not-found, unused-ignore]  # optional
from faststream.kafka import KafkaBroker  # type: ignore[import-not-found, unused-ignore]  # optional
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker  # type: ignore[import-not-found, unused-ignore]  # optional
from faststream.rabbit import RabbitExchange as Exchange  # type: ignore[import-not-found, unused-ignore]  # optional
from faststream.rabbit import RabbitQueue as Queue  # type: ignore[import-not-found, unused-ignore]  # optional

from benchmarks.in_memory import IN_FLIGHT, Count, on_all
from benchmarks.measure import Clock
from benchmarks.message import OrderFields, raw_orders

PREFETCH = 100
TYPE = "bench.order-placed"
EXCHANGE = Exchange("bench", type=ExchangeType.TOPIC, durable=True)
QUEUE = Queue("bench", durable=True, queue_type=QueueType.QUORUM, routing_key=TYPE)

logging.getLogger("faststream").setLevel(logging.ERROR)


def _rabbit(url: str) -> RabbitBroker:
    channel = Channel(prefetch_count=PREFETCH, publisher_confirms=True, on_return_raises=True)
    return RabbitBroker(url, default_channel=channel, logger=None)


async def _publish(broker: RabbitBroker, n: int, clock: Clock, count: Count) -> None:
    queue = await broker.declare_queue(QUEUE)
    await queue.bind(await broker.declare_exchange(EXCHANGE), TYPE)

    async def publish(model: OrderFields) -> None:
        await broker.publish(
            model, exchange=EXCHANGE, routing_key=TYPE, persist=True, mandatory=True
        )

    await on_all(iter(raw_orders(n)), publish, clock, IN_FLIGHT, count)


def _all_handled() -> Count:
    count = Count(0)
    count.all.set()
    return count


async def published_to_rabbit(url: str, n: int, clock: Clock) -> None:
    """N2."""
    async with _rabbit(url) as broker:
        await broker.start()
        await _publish(broker, n, clock, _all_handled())


async def consumed_from_rabbit(url: str, n: int, clock: Clock) -> None:
    """N3."""
    async with _rabbit(url) as broker:
        await broker.start()
        await _publish(broker, n, Clock(), _all_handled())
    count = Count(n)
    async with _handling_rabbit(url, count) as broker:
        with clock:
            await broker.start()
            await count.all.wait()


async def through_rabbit(url: str, n: int, clock: Clock) -> None:
    """N4."""
    count = Count(n)
    async with _handling_rabbit(url, count) as broker:
        await broker.start()
        await _publish(broker, n, clock, count)


def _handling_rabbit(url: str, count: Count) -> RabbitBroker:
    broker = _rabbit(url)

    @broker.subscriber(QUEUE, EXCHANGE)  # type: ignore[untyped-decorator, unused-ignore]
    async def handle(order: OrderFields) -> None:
        count.one()

    return broker


def _kafka(servers: str) -> KafkaBroker:
    return KafkaBroker(servers, acks="all", enable_idempotence=True, logger=None)


async def _produce(broker: KafkaBroker, topic: str, n: int, clock: Clock, count: Count) -> None:
    async def publish(model: OrderFields) -> None:
        await broker.publish(model, topic, key=str(model.order_id).encode())

    await on_all(iter(raw_orders(n)), publish, clock, IN_FLIGHT, count)


async def published_to_kafka(servers: str, topic: str, n: int, clock: Clock) -> None:
    """N5b, the first half."""
    async with _kafka(servers) as broker:
        await broker.start()
        await _produce(broker, topic, n, clock, _all_handled())


async def consumed_from_kafka(servers: str, topic: str, n: int, clock: Clock) -> None:
    """N5; the clock begins with the first call of the handler."""
    count, began = Count(n), False
    broker = _kafka(servers)

    @broker.subscriber(  # type: ignore[untyped-decorator, unused-ignore]
        topic, group_id=f"{topic}-fs", auto_offset_reset="earliest", ack_policy=AckPolicy.ACK_FIRST
    )
    async def handle(order: OrderFields) -> None:
        nonlocal began
        if not began:
            began = True
            clock.__enter__()
        count.one()

    async with broker:
        await broker.start()
        await count.all.wait()
        clock.__exit__(None, None, None)


async def through_kafka(servers: str, topic: str, n: int, clock: Clock) -> None:
    """N5b, the second half; the topic holds one message already."""
    count = Count(n + 1)
    broker = _kafka(servers)

    @broker.subscriber(  # type: ignore[untyped-decorator, unused-ignore]
        topic, group_id=f"{topic}-fs", auto_offset_reset="earliest", ack_policy=AckPolicy.ACK_FIRST
    )
    async def handle(order: OrderFields) -> None:
        count.one()

    async with broker:
        await broker.start()
        await _produce(broker, topic, n, clock, count)
