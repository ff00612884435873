"""Messages that a hostile or broken program writes, past every check of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import HeadersType
from aiokafka import AIOKafkaProducer

from tests.integration.brokers.conftest import Broker

ROUTED_AS = "shop.placed"


@dataclass(frozen=True)
class Raw:
    """Attributes by their bare names, and a body."""

    attributes: dict[str, bytes]
    body: bytes


async def write(broker: Broker, messages: Sequence[Raw]) -> None:
    """All of them, confirmed, in order."""
    await (_to_kafka if broker.name == "kafka" else _to_rabbit)(broker, messages)


async def _to_kafka(broker: Broker, messages: Sequence[Raw]) -> None:
    servers = urlsplit(broker.url).netloc
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=32 << 20)
    await producer.start()
    try:
        for each in messages:
            headers = [(f"ce_{name}", value) for name, value in each.attributes.items()]
            await producer.send(broker.topic, each.body, headers=headers)
    finally:
        await producer.stop()  # with everything confirmed


async def _to_rabbit(broker: Broker, messages: Sequence[Raw]) -> None:
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(broker.topic)
        for each in messages:
            headers: HeadersType = {
                f"ce-{name}": _text(value) for name, value in each.attributes.items()
            }
            await exchange.publish(aio_pika.Message(each.body, headers=headers), ROUTED_AS)


def _text(value: bytes) -> str | bytearray:
    """A long string where it is one, else a byte array."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return bytearray(value)
