"""PostgreSQL keeps the contract of storages."""

import pytest

from eventbus.testing import conformance
from tests.conformance.postgres import OnPostgres, WaitingClock


class TestTransactions(OnPostgres, conformance.TransactionSuite): ...


class TestAbandoned(OnPostgres, conformance.AbandonedSuite): ...


class TestSql(OnPostgres, conformance.SqlSuite): ...


class TestLeases(OnPostgres, conformance.LeaseSuite): ...


class TestOutbox(OnPostgres, conformance.OutboxSuite): ...


class TestInbox(OnPostgres, conformance.InboxSuite): ...


class TestParking(OnPostgres, conformance.ParkingSuite): ...


class TestCheckpoints(OnPostgres, conformance.CheckpointSuite): ...


class TestSubjectKeys(OnPostgres, conformance.SubjectKeySuite): ...


class TestProjections(OnPostgres, conformance.ProjectionSuite): ...


class TestOwnTables(OnPostgres, conformance.OwnTablesSuite): ...


class TestInline(OnPostgres, conformance.InlineSuite): ...


class TestEvents(OnPostgres, conformance.EventSuite): ...


class TestFeed(OnPostgres, conformance.FeedSuite): ...


class TestMergedAppends(OnPostgres, conformance.MergedAppendSuite): ...


class TestInspection(OnPostgres, conformance.InspectionSuite): ...


class TestSagas(OnPostgres, conformance.SagaSuite): ...


class TestEffects(OnPostgres, conformance.EffectSuite): ...


class TestStress(OnPostgres, conformance.StressSuite):
    @pytest.fixture
    def clock(self) -> conformance.Clock:
        return WaitingClock()
