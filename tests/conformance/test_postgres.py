"""PostgreSQL keeps the contract of storages."""

from collections.abc import AsyncIterator

import pytest

from eventbus.postgres import PostgresStorage
from eventbus.testing import conformance
from tests.conformance.postgres import ShiftingClock, WaitingClock, entered


class OnPostgres:
    """The fixtures of every suite."""

    @pytest.fixture
    def clock(self, postgres_url: str) -> conformance.Clock:
        return ShiftingClock(postgres_url)

    @pytest.fixture
    async def storage(self, postgres_url: str) -> AsyncIterator[PostgresStorage]:
        async with entered(postgres_url) as storage:
            yield storage


class TestTransactions(OnPostgres, conformance.TransactionSuite): ...


class TestSql(OnPostgres, conformance.SqlSuite): ...


class TestLeases(OnPostgres, conformance.LeaseSuite): ...


class TestOutbox(OnPostgres, conformance.OutboxSuite): ...


class TestInbox(OnPostgres, conformance.InboxSuite): ...


class TestParking(OnPostgres, conformance.ParkingSuite): ...


class TestCheckpoints(OnPostgres, conformance.CheckpointSuite): ...


class TestInspection(OnPostgres, conformance.InspectionSuite): ...


class TestStress(OnPostgres, conformance.StressSuite):
    @pytest.fixture
    def clock(self) -> conformance.Clock:
        return WaitingClock()
