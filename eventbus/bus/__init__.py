"""EventBus: the facade, and the one place where rooms meet."""

from eventbus.bus.facade import EventBus
from eventbus.bus.places import DeadLetters
from eventbus.bus.report import Description, Health
from eventbus.bus.saga_desk import Sagas, Shown
from eventbus.bus.tuning import Tuning

__all__ = ["DeadLetters", "Description", "EventBus", "Health", "Sagas", "Shown", "Tuning"]
