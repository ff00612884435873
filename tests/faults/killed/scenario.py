"""Publish, relay, consume, park, redrive; each process looks how far an earlier one came."""

import asyncio
from collections.abc import Awaitable, Callable

from eventbus import EventBus
from eventbus.memory import MemoryTransport
from eventbus.testing.faults import FaultPlan, FaultyStorage, FaultyTransport
from tests.faults.crash import ALL, KEYS, note, post, publish, repair
from tests.faults.history import History
from tests.faults.killed.ground import looking, storage_at

LONGEST_SECONDS = 60.0  # of one process; on an idle machine it takes about one


async def publishing(url: str, history: History) -> None:
    """All that is not there yet, and nothing else."""
    bus = EventBus("memory://", storage=storage_at(url), handlers=[post, note], service="killed")
    async with asyncio.timeout(LONGEST_SECONDS), bus.client():
        await _publish(bus, history)


async def scenario(url: str, beside: str, plan: FaultPlan, history: History) -> None:
    """The whole life of all messages.

    Args:
        url: of the database, perhaps by way of a proxy.
        beside: of the database itself.
        plan: what calls of the contracts meet.
        history: of this process.
    """
    bus = EventBus(
        FaultyTransport(MemoryTransport(), plan),
        storage=FaultyStorage(storage_at(url), plan),
        handlers=[post, note],
        service="killed",
    )
    async with asyncio.timeout(LONGEST_SECONDS), looking(beside) as look, bus:
        await _publish(bus, history)

        async def ready() -> bool:
            return bool(await look.dead()) or await look.effects("ledger") == ALL

        async def done() -> bool:
            return await look.effects("audit") == ALL

        await _until(ready)
        if await look.dead():
            await repair(bus)
            await bus.dead_letters.change("redrive", actor="killed")
        await _until(done)
        await bus.until_idle()


async def _publish(bus: EventBus, history: History) -> None:
    async with asyncio.TaskGroup() as tasks:
        for key in range(KEYS):
            tasks.create_task(publish(bus, f"k{key}", history), name=f"client:k{key}")


async def _until(fact: Callable[[], Awaitable[bool]]) -> None:
    while not await fact():  # noqa: ASYNC110 - another process would have to say it
        await asyncio.sleep(0.01)
