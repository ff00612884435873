"""Without faults the wrappers are the adapters they wrap: the suites hold them to it."""

from collections.abc import AsyncIterator

import pytest

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.sqlite import SqliteStorage
from eventbus.testing import FaultPlan, FaultyStorage, FaultyTransport, conformance


class Wrapped:
    """The fixtures of every suite."""

    @pytest.fixture
    def clock(self) -> conformance.HandClock:
        return conformance.HandClock()

    @pytest.fixture
    async def storage(self, clock: conformance.HandClock) -> AsyncIterator[FaultyStorage]:
        async with FaultyStorage(SqliteStorage(now=clock), FaultPlan()) as storage:
            yield storage


class TestTransactions(Wrapped, conformance.TransactionSuite): ...


class TestSql(Wrapped, conformance.SqlSuite): ...


class TestLeases(Wrapped, conformance.LeaseSuite): ...


class TestOutbox(Wrapped, conformance.OutboxSuite): ...


class TestInbox(Wrapped, conformance.InboxSuite): ...


class TestParking(Wrapped, conformance.ParkingSuite): ...


class TestCheckpoints(Wrapped, conformance.CheckpointSuite): ...


class TestInspection(Wrapped, conformance.InspectionSuite): ...


class TestTransport(conformance.TransportSuite):
    @pytest.fixture
    def broker(self) -> MemoryBroker:
        return MemoryBroker()

    @pytest.fixture
    def connect(self, broker: MemoryBroker) -> conformance.Connect:
        return lambda: FaultyTransport(MemoryTransport(broker), FaultPlan())

    @pytest.fixture
    def break_envelope(self, broker: MemoryBroker) -> conformance.BreakEnvelope:
        async def inject(message: Message) -> None:
            broker.inject(message.topic, message, malformed="no ce_type")

        return inject
