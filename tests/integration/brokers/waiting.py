"""Waiting for facts that nobody signals."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventbus import EventBus
from eventbus.service import pause


async def until(fact: Callable[[], bool], *, within: float = 60.0) -> None:
    """Return as soon as it holds."""
    async with asyncio.timeout(within):
        while not fact():
            await a_moment()


async def letters_of(bus: EventBus, count: int) -> Sequence[Mapping[str, Any]]:
    """Its dead letters, once there are so many."""
    async with asyncio.timeout(60):
        while len(found := await bus.dead_letters.list(limit=10_000)) < count:
            await a_moment()
    return found


async def a_moment() -> None:
    """Others run: a database in the process never waits, so looking alone does not let them."""
    await pause(asyncio.Event(), 0.01)
