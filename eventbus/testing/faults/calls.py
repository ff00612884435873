"""Calls whose faults are all of the plan's own making."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from eventbus.errors import StorageError
from eventbus.testing.faults.plan import Fault

T = TypeVar("T")


def plainly(act: Callable[[], Awaitable[T]]) -> Callable[[Fault | None], Awaitable[T]]:
    """For calls whose faults are all the plan's own."""

    def call(_: Fault | None) -> Awaitable[T]:
        return act()

    return call


def timed_out(_: bool) -> Exception:
    """What a call raises that got no answer, done or not."""
    return StorageError(
        "EB5007",
        "the database does not answer",
        where="a call of the storage",
        why="a fault of the test's plan: no answer within the deadline",
        next="run the transaction again later",
    )
