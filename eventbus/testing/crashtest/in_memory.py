"""A world of one process: a broker and a database in memory, which outlive what is killed."""

import asyncio
import random
from dataclasses import replace
from typing import Any

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.testing.crashtest.life import Life, Orders, Subject, lived, told
from eventbus.testing.crashtest.points import CrashPlan
from eventbus.testing.crashtest.tables import ON_SQLITE
from eventbus.testing.faults import FaultyStorage, FaultyTransport
from eventbus.testing.harness import Clock
from eventbus.transport import Capabilities

MOST_CANCELS = 10_000
_CALL_DUE = "SELECT min(due_at) - eventbus_now() AS milliseconds FROM eventbus_saga_call"


class Memory(MemoryTransport):  # reports go by the name of the class: memory
    """As a broker of its own: what it confirmed outlives the process that published."""

    @property
    def capabilities(self) -> Capabilities:
        """Durable."""
        return replace(super().capabilities, durable=True)


class InMemory:
    """Database, broker and clock of one trial; time stands still but for what is due.

    Args:
        subject: whose copies live in it.
        seed: of every choice of the broker, and of `random`.
    """

    def __init__(self, subject: Subject, *, seed: int) -> None:
        random.seed(seed)
        self._subject = subject
        self._clock = Clock()
        self._storage = SqliteStorage(now=self._clock)
        given = subject.app.transport  # 'memory://?style=queue' says how the broker behaves
        broker = given.broker if isinstance(given, MemoryTransport) else MemoryBroker()
        self._broker = MemoryBroker(style=broker.style, partitions=broker.partitions, seed=seed)

    async def prepare(self) -> None:
        """The tables of the ledger, then those of the application: nobody dies here."""
        async with self._storage, self._storage.transaction() as tx:
            for statement in ON_SQLITE:
                await tx.sql.execute(statement)
        drive = self._subject.prepare
        if drive is not None:
            copy = self._subject.app.replace(transport=Memory(self._broker), storage=self._storage)
            async with copy.client() as bus:
                await drive(bus)

    async def live(self, orders: Orders) -> Life:
        """One process; a kill on the way leaves what it left."""
        plan, transport = CrashPlan(orders.kill), Memory(self._broker)
        bus = self._subject.app.replace(
            transport=FaultyTransport(transport, plan),
            storage=FaultyStorage(self._storage, plan),
            middleware=[self._subject.ledger.note],
        )
        killed = asyncio.Event()
        plan.on_kill = killed.set
        others = asyncio.all_tasks()
        work = asyncio.create_task(lived(self._subject, bus, plan, orders, self), name="scenario:0")
        dying = asyncio.create_task(killed.wait(), name="scenario:killer")
        await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
        if not plan.frozen:
            dying.cancel()
            return work.result()
        await _end(others)
        transport.abandon()
        await self._storage.__aexit__(None, None, None)  # as a file: who opens it next is alone
        return told(plan, killed=True)

    async def close(self) -> None:
        """Let go of the database."""
        self._storage.close()

    async def call_due(self) -> float | None:
        """By the clock of this world."""
        async with self._storage.transaction() as tx:
            (row,) = await tx.sql.fetch(_CALL_DUE)
        return None if row["milliseconds"] is None else row["milliseconds"] / 1000

    async def advance(self, seconds: float) -> None:
        """Move its clock."""
        await self._clock.advance(seconds=seconds)


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
