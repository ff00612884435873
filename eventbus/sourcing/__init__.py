"""Event sourcing: deciders, aggregates, the log behind bus.events, and read models of it."""

from eventbus.keyring import Rewrapped
from eventbus.sourcing.aggregate import Aggregate, applies
from eventbus.sourcing.commands import CommandHandler
from eventbus.sourcing.decider import Decider
from eventbus.sourcing.feed import Page
from eventbus.sourcing.forgetting import SubjectForgotten
from eventbus.sourcing.log import EventLog
from eventbus.sourcing.projection import (
    FoldingProjection,
    Projection,
    RecordedEvent,
    View,
    projects,
)
from eventbus.sourcing.read_model import ReadModel
from eventbus.sourcing.recorded import Recorded
from eventbus.storage.events import Filter, Position
from eventbus.storage.subject_keys import Shredded

__all__ = [
    "Aggregate",
    "CommandHandler",
    "Decider",
    "EventLog",
    "Filter",
    "FoldingProjection",
    "Page",
    "Position",
    "Projection",
    "ReadModel",
    "Recorded",
    "RecordedEvent",
    "Rewrapped",
    "Shredded",
    "SubjectForgotten",
    "View",
    "applies",
    "projects",
]
