"""Kills an application's own handlers and sagas at every call of the contracts, and judges."""

from eventbus.testing.crashtest.explorer import Report, Trial, crashtest
from eventbus.testing.crashtest.ledger import Violation
from eventbus.testing.crashtest.points import Point

__all__ = ["Point", "Report", "Trial", "Violation", "crashtest"]
