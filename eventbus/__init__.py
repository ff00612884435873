"""Typed events, exactly-once effects, event sourcing and sagas on Kafka or RabbitMQ."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.event import Command, Event, Rejection, Reply, Undone, Untyped, upcast
    from eventbus.handler import (
        Context,
        DeadLetter,
        Group,
        Reject,
        Retry,
        RetryPolicy,
        UnitOfWork,
        handles,
        subscribe,
        undoes,
    )
    from eventbus.personal import Forgotten, Personal
    from eventbus.storage.sql import Sql

__all__ = [
    "Command",
    "Context",
    "DeadLetter",
    "Event",
    "EventBus",
    "Forgotten",
    "Group",
    "Personal",
    "Reject",
    "Rejection",
    "Reply",
    "Retry",
    "RetryPolicy",
    "Sql",
    "Undone",
    "UnitOfWork",
    "Untyped",
    "handles",
    "subscribe",
    "undoes",
    "upcast",
]

if not TYPE_CHECKING:  # or every misspelt name would pass the type checkers
    _HOMES = {
        "eventbus.bus": {"EventBus"},
        "eventbus.event": {"Command", "Event", "Rejection", "Reply", "Undone", "Untyped", "upcast"},
        "eventbus.personal": {"Forgotten", "Personal"},
        "eventbus.storage.sql": {"Sql"},
    }

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used (I3)."""
        if name not in __all__:
            raise AttributeError(f"module 'eventbus' has no attribute {name!r}")
        home = next((home for home, names in _HOMES.items() if name in names), "eventbus.handler")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value
