"""SAGATIMERS: what armed timers cost while nothing is due, and how soon many have fired.

One saga that waits is made by the engine; the others are copies of its rows.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import BaseModel

from benchmarks.postgres import World, case, timed
from benchmarks.rounds import Bar, Figures, Goal
from eventbus import Event, EventBus
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.postgres import PostgresStorage
from eventbus.saga import Saga, starts_on, wait_step
from eventbus.saga.tenancy import new_saga_id

POLLS = 200
LONG_SECONDS = 600
READS = (("waiting", 1),)
ARMED = "SELECT count(*) FROM eventbus.saga_timer"
COMPLETED = "SELECT count(*) FROM eventbus.saga WHERE status = 'completed'"
COPY = """
INSERT INTO eventbus.{table}
SELECT (x.r).* FROM (
  SELECT jsonb_populate_record(s, jsonb_build_object('saga_id', u.i, {key} 'version', {version})) r
    FROM eventbus.{table} s, unnest($1::uuid[]) WITH ORDINALITY u(i, o)) x"""


class Due(Event, type="bench.due", key="order"):
    order: str


class State(BaseModel):
    order: str


class Waiting(Saga[State], name="waiting", step_timeout=timedelta(days=2)):
    @starts_on(Due)
    def begin(self, event: Due) -> State:
        return State(order=event.order)

    @wait_step(delay=timedelta(days=1))
    def a_day(self, s: State) -> None: ...


def bar() -> Bar:
    """Both goals of the issue."""
    idle = Goal(figure="ms", at_most=1.0)
    fired = Goal(figure="ms", at_most=10_000)
    return Bar(
        name="SAGATIMERS",
        what="timers of sagas: a poll while nothing is due; all of them due at once",
        ratio_of="ms",
        cases=[
            case("SAGATIMERS", "400,000 armed, a poll", 400_000, _polled, idle),
            case("SAGATIMERS", "20,000 due at once, all fired", 20_000, _fired, fired),
        ],
    )


BARS = {"SAGATIMERS": bar}


async def _polled(world: World, n: int) -> Figures:
    async with _waiting(world, n):
        pass
    await world.admin.execute("VACUUM ANALYZE eventbus.saga_timer", timeout=LONG_SECONDS)
    times = []
    async with timed(world):
        for _ in range(POLLS):
            began = time.perf_counter()
            async with world.storage.transaction() as tx:
                due = await tx.sagas.next_due(READS)
            if not due:
                raise AssertionError("a timer is due, or none is armed")
            times.append(time.perf_counter() - began)
    return {"ms": statistics.median(times) * 1000, "best_ms": min(times) * 1000}


async def _fired(world: World, n: int) -> Figures:
    async with _waiting(world, n), timed(world):
        began = time.perf_counter()
        await world.admin.execute("UPDATE eventbus.saga_timer SET due_at = now()")
        while await world.admin.fetchval(COMPLETED) < n:  # noqa: ASYNC110 - rows tell nobody
            await asyncio.sleep(0.05)
        return {"ms": (time.perf_counter() - began) * 1000}


@asynccontextmanager
async def _waiting(world: World, n: int) -> AsyncIterator[None]:
    """A bus, and so many sagas that wait."""
    storage = PostgresStorage(world.storage.config)
    transport = MemoryTransport(MemoryBroker())
    bus = EventBus(transport, storage=storage, handlers=[Waiting], service="bench")
    async with bus, asyncio.timeout(LONG_SECONDS):
        await bus.publish(Due(order="one"))
        while not await world.admin.fetchval(ARMED):  # noqa: ASYNC110 - rows tell nobody
            await asyncio.sleep(0.05)
        ids = [new_saga_id("") for _ in range(n - 1)]
        for table in ("saga", "saga_step", "saga_timer"):
            await world.admin.execute(_copy(table), ids, timeout=LONG_SECONDS)
        yield


def _copy(table: str) -> str:
    is_saga = table == "saga"
    key = "'business_key', 'k' || u.o," if is_saga else ""
    return COPY.format(table=table, key=key, version="s.version" if is_saga else "0")
