"""A process of a crash test, from its start to its kill or its end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from eventbus.bus import EventBus
from eventbus.testing.crashtest.ledger import (
    Check,
    Ledger,
    Standing,
    Violation,
    judged_by_user,
)
from eventbus.testing.crashtest.points import CrashPlan, Phase, Point

Drive = Callable[[EventBus], Awaitable[None]]

AT_MOST = timedelta(seconds=30)  # for the scenario, and to come to rest: they take milliseconds
MOST_DUE = 100  # due times that are gone through: retries, leases of the dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is tested, and by what it is judged."""

    app: EventBus  # whose copies live; it is not entered itself
    scenario: Drive
    prepare: Drive | None
    checks: Sequence[Check]
    ledger: Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a process is to do."""

    kill: Point | None = None  # where it dies
    drives: bool = True  # it runs the scenario; else it goes on after one that died
    cut: bool = False  # the scenario did not come to its end
    dry: Standing | None = None  # how it ends without a crash; None: this is it


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What became of a process."""

    killed: bool
    phase: Phase = "over"
    points: Sequence[Point] = ()
    calls: Sequence[str] = ()
    violations: Sequence[Violation] = ()
    standing: Standing | None = None


class Time(Protocol):
    """Brings nearer what is due later."""

    async def call_due(self) -> float | None:
        """In how many seconds the next call of a saga is due; None: there is none."""
        ...

    async def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        ...


async def lived(
    subject: Subject, bus: EventBus, plan: CrashPlan, orders: Orders, time: Time
) -> Life:
    """Drive, come to rest, judge; whoever runs it sees to the kill of the plan.

    Raises what the scenario raises.
    """
    async with bus:
        missed = "the scenario does not end"
        try:
            if orders.drives:
                plan.phase = "driving"
                await _driven(subject.scenario, bus)
            plan.phase, missed = "draining", "it does not come to rest"
            await _come_to_rest(bus, time)
        except _TooLongError:
            plan.phase = "over"
            waiting = Violation("PROGRESS", missed, await _waiting(bus))
            return told(plan, killed=False, violations=[waiting])
        plan.phase = "over"
        async with bus.transaction() as tx:
            violations = await subject.ledger.judge(tx.sql, dry=orders.dry, cut=orders.cut)
            standing = await subject.ledger.standing(tx.sql)
        violations += await judged_by_user(bus, subject.checks)
        return told(plan, killed=False, violations=violations, standing=standing)


def told(plan: CrashPlan, *, killed: bool, **judged: Any) -> Life:
    """What a plan saw of a life."""
    return Life(
        killed=killed, phase=plan.phase, points=plan.points, calls=plan.calls_made, **judged
    )


async def _driven(drive: Drive, bus: EventBus) -> None:
    try:
        async with asyncio.timeout(AT_MOST.total_seconds()) as limit:
            await drive(bus)
    except TimeoutError as error:
        if limit.expired():
            raise _TooLongError from error
        raise


async def _come_to_rest(bus: EventBus, time: Time) -> None:
    """Until nothing is on its way, retries and what the dead had claimed included."""
    for _ in range(MOST_DUE):
        try:
            await bus.until_idle(at_most=AT_MOST)
        except TimeoutError as error:
            raise _TooLongError from error
        seconds = await _until_due(bus, time)
        if seconds is None:
            return
        await time.advance(seconds + 0.001)
    raise _TooLongError


async def _until_due(bus: EventBus, time: Time) -> float | None:
    rows = await bus.parked.list(limit=1000)
    waits = [row["due_in_seconds"] for row in rows if row["due_in_seconds"] is not None]
    call = await time.call_due()
    if call is not None:
        waits.append(call)
    return max(0.0, min(waits)) if waits else None


class _TooLongError(Exception):
    """Nothing ends; a TimeoutError may be the scenario's own."""


async def _waiting(bus: EventBus) -> list[dict[str, Any]]:
    health = await bus.health()
    return [{"service": name, "state": state} for name, state in health.services.items()]
