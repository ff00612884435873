"""Public suites that hold every adapter to its contract: subclass one, give it its fixtures."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.testing.conformance.abandoned import AbandonedSuite
    from eventbus.testing.conformance.checkpoints import CheckpointSuite
    from eventbus.testing.conformance.effects import EffectSuite
    from eventbus.testing.conformance.events import EventSuite
    from eventbus.testing.conformance.feed import FeedSuite
    from eventbus.testing.conformance.inbox import InboxSuite
    from eventbus.testing.conformance.inline import InlineSuite
    from eventbus.testing.conformance.inspection import InspectionSuite
    from eventbus.testing.conformance.leases import LeaseSuite
    from eventbus.testing.conformance.merged import MergedAppendSuite
    from eventbus.testing.conformance.outbox import OutboxSuite
    from eventbus.testing.conformance.own_tables import OwnTablesSuite
    from eventbus.testing.conformance.parking import ParkingSuite
    from eventbus.testing.conformance.projections import ProjectionSuite
    from eventbus.testing.conformance.sagas import SagaSuite
    from eventbus.testing.conformance.samples import Clock, HandClock
    from eventbus.testing.conformance.sql import SqlSuite
    from eventbus.testing.conformance.stress import StressSuite
    from eventbus.testing.conformance.subject_keys import SubjectKeySuite
    from eventbus.testing.conformance.transactions import TransactionSuite
    from eventbus.testing.conformance.transport import BreakEnvelope, Connect, TransportSuite

__all__ = [
    "AbandonedSuite",
    "BreakEnvelope",
    "CheckpointSuite",
    "Clock",
    "Connect",
    "EffectSuite",
    "EventSuite",
    "FeedSuite",
    "HandClock",
    "InboxSuite",
    "InlineSuite",
    "InspectionSuite",
    "LeaseSuite",
    "MergedAppendSuite",
    "OutboxSuite",
    "OwnTablesSuite",
    "ParkingSuite",
    "ProjectionSuite",
    "SagaSuite",
    "SqlSuite",
    "StressSuite",
    "SubjectKeySuite",
    "TransactionSuite",
    "TransportSuite",
]

if not TYPE_CHECKING:  # lazy, so that pytest can rewrite the asserts of a suite before it is loaded
    _HOMES = {
        "AbandonedSuite": "abandoned",
        "BreakEnvelope": "transport",
        "CheckpointSuite": "checkpoints",
        "Clock": "samples",
        "Connect": "transport",
        "EventSuite": "events",
        "FeedSuite": "feed",
        "EffectSuite": "effects",
        "HandClock": "samples",
        "InboxSuite": "inbox",
        "InlineSuite": "inline",
        "InspectionSuite": "inspection",
        "LeaseSuite": "leases",
        "MergedAppendSuite": "merged",
        "OutboxSuite": "outbox",
        "OwnTablesSuite": "own_tables",
        "ParkingSuite": "parking",
        "ProjectionSuite": "projections",
        "SagaSuite": "sagas",
        "SqlSuite": "sql",
        "StressSuite": "stress",
        "SubjectKeySuite": "subject_keys",
        "TransactionSuite": "transactions",
        "TransportSuite": "transport",
    }

    def __getattr__(name: str) -> Any:
        """Import a suite when it is first used, its asserts rewritten to say what they compared."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import pytest

        home = f"{__name__}.{_HOMES[name]}"
        pytest.register_assert_rewrite(home)
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value
