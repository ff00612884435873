"""Where a process can die: before and after each call of the contracts, and a plan for one kill."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from eventbus.testing.faults import FaultPlan, Kill
from eventbus.testing.faults.plan import Fault, points_at, role_of

aside: ContextVar[bool] = ContextVar("aside", default=False)
"""Set around what the explorer itself asks of the storage: nobody dies there."""

_NO_POINTS = frozenset({"enter", "examine", "upgrade", "wait"})
Side = Literal["before", "after"]
Phase = Literal["entering", "driving", "draining", "over"]


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after the n-th call of a name, by tasks of one name, in the life of one process."""

    role: str  # "consumer"
    detail: str  # "billing"; of a role that there is once: ""
    call: str  # "inbox.receive"
    nth: int  # from 1
    side: Side
    names: tuple[str, ...] = field(default=(), compare=False)  # "relay.confirmed", …

    @property
    def place(self) -> str:
        """All of it but the number: `consumer:billing.inbox.receive`."""
        return f"{self.role}{self.detail and ':'}{self.detail}.{self.call}"

    def __str__(self) -> str:
        return f"{self.place}/{self.nth}/{self.side}"

    def fits(self, pattern: str) -> bool:
        """Whether a pattern means it: `relay.*`, `consumer:billing.*`, `relay.confirmed`, …."""
        known = (str(self), self.place, f"{self.role}.{self.call}", *self.names)
        return any(fnmatchcase(each, pattern) for each in known)


def chosen(kills: Sequence[Point], patterns: Sequence[str]) -> bool:
    """Whether kills one after the other are meant by one of the patterns.

    Args:
        kills: the first one, the one in the recovery from it, …
        patterns: one of a point means it at every depth; `FIRST>SECOND` each at its own.
    """
    return any(_fit(kills, pattern.split(">")) for pattern in patterns)


def depth_of(patterns: Sequence[str]) -> int:
    """The longest row of kills that the patterns name."""
    return max((pattern.count(">") + 1 for pattern in patterns), default=1)


def _fit(kills: Sequence[Point], parts: Sequence[str]) -> bool:
    if len(parts) == 1:
        return all(kill.fits(parts[0]) for kill in kills)
    return len(kills) <= len(parts) and all(
        kill.fits(part) for kill, part in zip(kills, parts, strict=False)
    )


class CrashPlan(FaultPlan):
    """Notes every point that a process passes, and kills it at one of them.

    Args:
        target: where it dies; None: it lives on.
    """

    def __init__(self, target: Point | None) -> None:
        super().__init__()
        self.target = target
        self.phase: Phase = "entering"
        self.points: list[Point] = []
        self.calls_made: list[str] = []
        self._seen: Counter[str] = Counter()
        self._waiting: dict[str, Point] = {}

    def meet(self, call: str, *also: str) -> Fault | None:
        """Count a call, unless it is the explorer's own; the kill that is planned there."""
        task = asyncio.current_task()
        role = role_of(task)
        if call in _NO_POINTS or aside.get() or not self._counts(role):
            return None
        before, after = self._points(role, _detail_of(role, task), call, also)
        self.calls_made.append(before.place)
        self.points.append(before)
        if call == "next":  # it came back if it is called again: the last one waits in vain
            returned, self._waiting[before.place] = self._waiting.get(before.place), after
            self.points += [] if returned is None else [returned]
        else:
            self.points.append(after)
        return Kill(after=self.target == after) if self.target in {before, after} else None

    def _points(
        self, role: str, detail: str, call: str, also: Sequence[str]
    ) -> tuple[Point, Point]:
        name = f"{role}:{detail}.{call}"
        self._seen[name] += 1
        before, after = (
            Point(role, detail, call, self._seen[name], side, points_at(role, (call, *also), kill))
            for side, kill in _SIDES
        )
        return before, after

    def _counts(self, role: str) -> bool:
        """What is no task of the bus is the scenario while that runs, else the explorer."""
        return self.phase == "driving" if role == "publish" else self.phase != "over"


_SIDES: Sequence[tuple[Side, Kill]] = (("before", Kill()), ("after", Kill(after=True)))


def _detail_of(role: str, task: "asyncio.Task[Any] | None") -> str:
    if task is None or role == "publish":
        return ""
    detail = task.get_name().split(":")[1:2]
    return "" if detail in ([], ["0"]) else detail[0]
