"""What an @on method may yield."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from eventbus.event import Command, Event, Reply
from eventbus.saga.definition import ONCE, OnUnknown, Resend

R = TypeVar("R", bound=Reply)


class Action:
    """What an `@on` method may yield."""


Actions = Iterator[Action]
"""What an `@on` method returns: it yields what is to be done, in order."""


@dataclass(frozen=True, slots=True)
class Do(Action, Generic[R]):
    """A command step.

    Its name and its undo's go to the step log: undo is data, never a suspended coroutine.
    """

    name: str
    command: Command[R]
    undo: Callable[[Any, R | None], Command[Any]] | None = None  # an @undo method: self.release
    timeout: timedelta | None = None
    resend: Resend = ONCE
    on_unknown: OnUnknown | None = None
    pivot: bool = False
    no_undo: str | None = None


@dataclass(frozen=True, slots=True)
class Deadline(Action):
    """Arms the saga's deadline, or moves it."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Timer(Action):
    """Arms a timer, taken by `@on("name", when=…)`; armed again, it moves."""

    name: str
    delay: timedelta


@dataclass(frozen=True, slots=True)
class Correlate(Action):
    """From now on, events whose `@on` says `by=name` find this saga by the value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Publish(Action):
    """Publishes an event in the transaction of the transition."""

    event: Event


@dataclass(frozen=True, slots=True)
class Complete(Action):
    """The saga has done its work; nothing may be in flight."""


@dataclass(frozen=True, slots=True)
class Cancel(Action):
    """Turns the saga back as soon as that is safe; after its pivot it does nothing."""

    reason: str
