"""Kafka keeps the contract of transports, on a real broker."""

import asyncio
from collections.abc import Coroutine, Generator, Iterator, Sequence
from contextvars import Context
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from eventbus.message import Message
from eventbus.testing import conformance
from eventbus.testing.services.kafka import delete_topics
from eventbus.transport import Change
from eventbus_kafka import KafkaConfig, KafkaTransport
from eventbus_kafka.topics import NewKafkaTopic

QUICK = "heartbeat_seconds=0.3&session_seconds=6"  # a rebalance is noticed by heartbeats


@pytest.fixture
def servers(kafka_url: str) -> tuple[str, ...]:
    return KafkaConfig.from_url(kafka_url).servers


class Noting(KafkaTransport):
    """Remembers the topics it made, so that the broker of all tests stays small."""

    def __init__(self, config: KafkaConfig, made: set[str]) -> None:
        super().__init__(config)
        self._made = made

    async def apply(self, changes: Sequence[Change]) -> None:
        self._made |= {each.topic for each in changes if isinstance(each, NewKafkaTopic)}
        await super().apply(changes)


class TestKafka(conformance.TransportSuite):
    @pytest.fixture(autouse=True)
    async def tasks_of_the_client_have_names(self) -> None:
        """The suite tells tasks apart by name, and aiokafka gives none: the function's serves."""
        asyncio.get_running_loop().set_task_factory(_named)

    @pytest.fixture
    def connect(self, kafka_url: str) -> Iterator[conformance.Connect]:
        join = "&" if "?" in kafka_url else "?"
        config = KafkaConfig.from_url(f"{kafka_url}{join}partitions=3&{QUICK}", "suite")
        made: set[str] = set()
        yield lambda: Noting(config, made)
        for topic in made:
            delete_topics(kafka_url, topic)

    @pytest.fixture
    def break_envelope(self, servers: tuple[str, ...]) -> conformance.BreakEnvelope:
        async def store(message: Message) -> None:
            producer = AIOKafkaProducer(bootstrap_servers=list(servers))
            await producer.start()
            try:
                await producer.send_and_wait(
                    message.topic,
                    message.payload,
                    key=None if message.key is None else message.key.encode(),
                    headers=[("ce_id", b"1"), ("ce_specversion", b"1.0")],
                )
            finally:
                await producer.stop()

        return store


def _named(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    *,
    name: str | None = None,
    context: Context | None = None,
) -> "asyncio.Task[Any]":
    task = asyncio.Task(coro, loop=loop, name=name, context=context)
    if name is None:
        task.set_name(getattr(coro, "__qualname__", "unnamed"))
    return task
