"""The memory broker of style "queue" keeps the contract of transports."""

import pytest

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.testing import conformance


class TestQueue(conformance.TransportSuite):
    @pytest.fixture(params=[False, True], ids=["plain", "stepwise"])
    def broker(self, request: pytest.FixtureRequest) -> MemoryBroker:
        return MemoryBroker(style="queue", stepwise=request.param)

    @pytest.fixture
    def connect(self, broker: MemoryBroker) -> conformance.Connect:
        return lambda: MemoryTransport(broker)

    @pytest.fixture
    def break_envelope(self, broker: MemoryBroker) -> conformance.BreakEnvelope:
        async def inject(message: Message) -> None:
            broker.inject(message.topic, message, malformed="no ce-type")

        return inject
