"""EventBus: the facade, and the one place where rooms meet."""

from eventbus.bus.facade import EventBus
from eventbus.bus.places import DeadLetters
from eventbus.bus.report import Description, Health
from eventbus.bus.tuning import Tuning

__all__ = ["DeadLetters", "Description", "EventBus", "Health", "Tuning"]
