"""Event sourcing: deciders, aggregates, command handlers, and the log behind bus.events."""

from eventbus.sourcing.aggregate import Aggregate, applies
from eventbus.sourcing.commands import CommandHandler
from eventbus.sourcing.decider import Decider
from eventbus.sourcing.log import EventLog, Page
from eventbus.sourcing.recorded import Recorded

__all__ = ["Aggregate", "CommandHandler", "Decider", "EventLog", "Page", "Recorded", "applies"]
