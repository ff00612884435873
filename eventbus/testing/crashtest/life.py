"""What outlives a process, and a process from its start to its kill or its end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from eventbus.bus import EventBus
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.testing.crashtest.ledger import SCHEMA, Ledger, Violation
from eventbus.testing.crashtest.points import CrashPlan
from eventbus.testing.faults import FaultyStorage, FaultyTransport
from eventbus.testing.harness import Clock
from eventbus.transport import Capabilities

Drive = Callable[[EventBus], Awaitable[None]]
Judge = Callable[[EventBus, "World"], Awaitable[Sequence[Violation]]]

AT_MOST = timedelta(seconds=30)  # for the scenario, and to come to rest: they take milliseconds
MOST_DUE = 100  # due times that are gone through: retries, leases of the dead
MOST_CANCELS = 10_000
_DUE = "SELECT min(due_at) - eventbus_now() AS milliseconds FROM eventbus_saga_call"


class Memory(MemoryTransport):  # reports go by the name of the class: memory
    """As a broker of its own: what it confirmed outlives the process that published."""

    @property
    def capabilities(self) -> Capabilities:
        """Durable."""
        return replace(super().capabilities, durable=True)


class World:
    """Database, broker and clock of one trial.

    Args:
        app: whose copies live in it.
        ledger: around its handlers.
        seed: of every choice of the broker.
    """

    def __init__(self, app: EventBus, ledger: Ledger, *, seed: int) -> None:
        self.clock: Clock = Clock()
        self.storage: SqliteStorage = SqliteStorage(now=self.clock)
        self._app = app
        self._ledger = ledger
        given = app.transport  # --transport 'memory://?style=queue' says how the broker behaves
        broker = given.broker if isinstance(given, MemoryTransport) else MemoryBroker()
        self._broker = MemoryBroker(style=broker.style, partitions=broker.partitions, seed=seed)

    async def prepare(self, drive: Drive | None) -> None:
        """The tables of the ledger, then those of the application: nobody dies here."""
        async with self.storage, self.storage.transaction() as tx:
            for statement in SCHEMA:
                await tx.sql.execute(statement)
        if drive is not None:
            transport = Memory(self._broker)
            async with self._app.replace(transport=transport, storage=self.storage).client() as bus:
                await drive(bus)

    async def live(self, plan: CrashPlan, drive: Drive | None, judge: Judge) -> Sequence[Violation]:
        """One process: drive, come to rest, judge; a kill on the way leaves what it left.

        Raises what `drive` raises.
        """
        transport = Memory(self._broker)
        bus = self._app.replace(
            transport=FaultyTransport(transport, plan),
            storage=FaultyStorage(self.storage, plan),
            middleware=[self._ledger.note],
        )
        killed = asyncio.Event()
        plan.on_kill = killed.set
        others = asyncio.all_tasks()
        work = asyncio.create_task(self._process(bus, plan, drive, judge), name="scenario:0")
        dying = asyncio.create_task(killed.wait(), name="scenario:killer")
        await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
        if not plan.frozen:
            dying.cancel()
            return work.result()
        await _end(others)
        transport.abandon()
        await self.storage.__aexit__(None, None, None)  # as a file: who opens it next is alone
        return ()

    async def _process(
        self, bus: EventBus, plan: CrashPlan, drive: Drive | None, judge: Judge
    ) -> Sequence[Violation]:
        async with bus:
            missed = "the scenario does not end"
            try:
                if drive is not None:
                    plan.phase = "driving"
                    await _driven(drive, bus)
                plan.phase, missed = "draining", "it does not come to rest"
                await self._come_to_rest(bus)
            except _TooLongError:
                plan.phase = "over"
                return [Violation("PROGRESS", missed, await _waiting(bus))]
            plan.phase = "over"
            return await judge(bus, self)

    async def _come_to_rest(self, bus: EventBus) -> None:
        """Until nothing is on its way, retries and what the dead had claimed included."""
        for _ in range(MOST_DUE):
            try:
                await bus.until_idle(at_most=AT_MOST)
            except TimeoutError as error:
                raise _TooLongError from error
            seconds = await self._until_due(bus)
            if seconds is None:
                return
            await self.clock.advance(seconds=seconds + 0.001)
        raise _TooLongError

    async def _until_due(self, bus: EventBus) -> float | None:
        rows = await bus.parked.list(limit=1000)
        waits = [row["due_in_seconds"] for row in rows if row["due_in_seconds"] is not None]
        async with self.storage.transaction() as tx:
            (row,) = await tx.sql.fetch(_DUE)
        if row["milliseconds"] is not None:
            waits.append(row["milliseconds"] / 1000)
        return max(0.0, min(waits)) if waits else None


class _TooLongError(Exception):
    """Nothing ends; a TimeoutError may be the scenario's own."""


async def _driven(drive: Drive, bus: EventBus) -> None:
    try:
        async with asyncio.timeout(AT_MOST.total_seconds()) as limit:
            await drive(bus)
    except TimeoutError as error:
        if limit.expired():
            raise _TooLongError from error
        raise


async def _waiting(bus: EventBus) -> list[dict[str, Any]]:
    health = await bus.health()
    return [{"service": name, "state": state} for name, state in health.services.items()]


async def _end(others: set[asyncio.Task[Any]]) -> None:
    """Cancel what a process ran; what it still tries is refused by its frozen plan."""
    seen: set[asyncio.Task[Any]] = set()
    for _ in range(MOST_CANCELS):
        left = {
            task
            for task in asyncio.all_tasks() - others
            if not task.get_name().startswith("rebalance:")  # the broker's own
        }
        if not left:
            break
        seen |= left
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.001)
    else:
        raise RuntimeError(f"tasks that do not end: {sorted(task.get_name() for task in left)}")
    for task in seen:
        if not task.cancelled():
            task.exception()  # seen: the dead may have fallen over anything
