"""SQLite in memory keeps the contract of storages."""

from collections.abc import AsyncIterator

import pytest

from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance


class InMemory:
    """The fixtures of every suite."""

    @pytest.fixture
    def clock(self) -> conformance.HandClock:
        return conformance.HandClock()

    @pytest.fixture(params=[False, True], ids=["plain", "stepwise"])
    async def storage(
        self, request: pytest.FixtureRequest, clock: conformance.HandClock
    ) -> AsyncIterator[SqliteStorage]:
        async with SqliteStorage(now=clock, stepwise=request.param) as storage:
            yield storage


class TestTransactions(InMemory, conformance.TransactionSuite): ...


class TestAbandoned(InMemory, conformance.AbandonedSuite): ...


class TestSql(InMemory, conformance.SqlSuite): ...


class TestLeases(InMemory, conformance.LeaseSuite): ...


class TestOutbox(InMemory, conformance.OutboxSuite): ...


class TestInbox(InMemory, conformance.InboxSuite): ...


class TestParking(InMemory, conformance.ParkingSuite): ...


class TestCheckpoints(InMemory, conformance.CheckpointSuite): ...


class TestSubjectKeys(InMemory, conformance.SubjectKeySuite): ...


class TestProjections(InMemory, conformance.ProjectionSuite): ...


class TestOwnTables(InMemory, conformance.OwnTablesSuite): ...


class TestInline(InMemory, conformance.InlineSuite): ...


class TestEvents(InMemory, conformance.EventSuite): ...


class TestFeed(InMemory, conformance.FeedSuite): ...


class TestMergedAppends(InMemory, conformance.MergedAppendSuite): ...


class TestInspection(InMemory, conformance.InspectionSuite): ...


class TestSagas(InMemory, conformance.SagaSuite): ...


class TestEffects(InMemory, conformance.EffectSuite): ...


class TestStress(InMemory, conformance.StressSuite): ...
