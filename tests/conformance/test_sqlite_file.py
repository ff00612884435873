"""SQLite on a file keeps the contract of storages."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance


class OnAFile:
    """The fixtures of every suite."""

    @pytest.fixture
    def clock(self) -> conformance.HandClock:
        return conformance.HandClock()

    @pytest.fixture
    async def storage(
        self, tmp_path: Path, clock: conformance.HandClock
    ) -> AsyncIterator[SqliteStorage]:
        async with SqliteStorage(str(tmp_path / "bus.db"), now=clock) as storage:
            yield storage


class TestTransactions(OnAFile, conformance.TransactionSuite): ...


class TestAbandoned(OnAFile, conformance.AbandonedSuite): ...


class TestSql(OnAFile, conformance.SqlSuite): ...


class TestLeases(OnAFile, conformance.LeaseSuite): ...


class TestOutbox(OnAFile, conformance.OutboxSuite): ...


class TestInbox(OnAFile, conformance.InboxSuite): ...


class TestParking(OnAFile, conformance.ParkingSuite): ...


class TestCheckpoints(OnAFile, conformance.CheckpointSuite): ...


class TestSubjectKeys(OnAFile, conformance.SubjectKeySuite): ...


class TestProjections(OnAFile, conformance.ProjectionSuite): ...


class TestOwnTables(OnAFile, conformance.OwnTablesSuite): ...


class TestInline(OnAFile, conformance.InlineSuite): ...


class TestEvents(OnAFile, conformance.EventSuite): ...


class TestFeed(OnAFile, conformance.FeedSuite): ...


class TestMergedAppends(OnAFile, conformance.MergedAppendSuite): ...


class TestInspection(OnAFile, conformance.InspectionSuite): ...


class TestSagas(OnAFile, conformance.SagaSuite): ...


class TestEffects(OnAFile, conformance.EffectSuite): ...


class TestStress(OnAFile, conformance.StressSuite): ...
