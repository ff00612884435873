"""RabbitMQ keeps the contract of transports."""

import aio_pika
import pytest
from pamqp.common import FieldTable

from eventbus.message import Message
from eventbus.testing import conformance
from eventbus_rabbit import RabbitConfig, RabbitTransport, publisher


class TestRabbit(conformance.TransportSuite):
    @pytest.fixture(params=["batches", "singly"])
    def way(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """How a batch is written: in one write, or as the client documents it."""
        if request.param == "singly":

            async def unproven(link: object) -> bool:
                return False

            monkeypatch.setattr(publisher, "proven", unproven)
        return str(request.param)

    @pytest.fixture
    def connect(self, rabbit_url: str, way: str) -> conformance.Connect:
        url = f"{rabbit_url}?prefetch=400"  # the suite holds 300 messages without a verdict
        return lambda: RabbitTransport(RabbitConfig.from_url(url, "suite"))

    @pytest.fixture
    def break_envelope(self, rabbit_url: str) -> conformance.BreakEnvelope:
        async def inject(message: Message) -> None:
            connection = await aio_pika.connect(rabbit_url)
            async with connection:
                channel = await connection.channel()
                exchange = await channel.get_exchange(message.topic)
                headers: FieldTable = {"ce-id": message.id, "ce-partitionkey": message.key}
                broken = aio_pika.Message(message.payload, headers=headers)
                await exchange.publish(broken, routing_key=message.type)

        return inject
