"""N12: three-step sagas on PostgreSQL, engine and participants in one process, and in each of two.

Their transport is in memory, taken for a lasting one: the relay settles what it handed out, as with
a broker; with memory:// rows stay until every group has acknowledged. Two processes share the work
by the partitions of the outbox. The clock runs from the first event.
DBOS runs as its documentation advises, a workflow of three steps, if it is installed.
By hand is asyncpg, a journal row and its commit for the start, each step and the end, so many sagas
at once: a floor without messages, timers, undo or recovery.
"""

import asyncio
import gc
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec

import asyncpg
from pydantic import BaseModel

from benchmarks.measure import cpu_seconds
from benchmarks.postgres import World, case, timed
from benchmarks.rounds import Bar, Figures, Goal
from eventbus import Command, Context, Event, EventBus, Group, Reply, handles
from eventbus.cli.process import collect_rarely
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.saga import Saga, starts_on, step
from eventbus.transport import Capabilities, Transport

AT_ONCE = 100
COMPLETED = "SELECT count(*) FROM eventbus.saga WHERE status = 'completed'"
HELD = """
SELECT max(n) FROM (SELECT count(*) n FROM eventbus.leases WHERE name LIKE 'outbox/%'
                    AND until > clock_timestamp() GROUP BY owner) held"""
LANES = 2  # of participants whose work is SQL alone: few lanes, so that batches are large
LONG_SECONDS = 600
STARTED = 500  # in one transaction


class Began(Event, type="bench.began", key="order"):
    order: str


class Done(Reply, type="bench.done"):
    number: int


class First(Command[Done], type="first.do", key="order"):
    order: str


class Second(Command[Done], type="second.do", key="order"):
    order: str


class Third(Command[Done], type="third.do", key="order"):
    order: str


class State(BaseModel):
    order: str
    done: int = 0


class Three(Saga[State], name="three", step_timeout=timedelta(minutes=30)):
    @starts_on(Began)
    def begin(self, event: Began) -> State:
        return State(order=event.order)

    @step(no_undo="measured without")
    def first(self, s: State) -> First:
        return First(order=s.order)

    @first.reply
    def did_first(self, s: State, reply: Done) -> None:
        s.done = reply.number

    @step(no_undo="measured without")
    def second(self, s: State) -> Second:
        return Second(order=s.order)

    @step(no_undo="measured without")
    def third(self, s: State) -> Third:
        return Third(order=s.order)


@handles(First, group=Group("first", lanes=LANES))
async def do_first(command: First, ctx: Context) -> Done:
    return Done(number=1)


@handles(Second, group=Group("second", lanes=LANES))
async def do_second(command: Second, ctx: Context) -> Done:
    return Done(number=2)


@handles(Third, group=Group("third", lanes=LANES))
async def do_third(command: Third, ctx: Context) -> Done:
    return Done(number=3)


PARTICIPANTS = (do_first, do_second, do_third)


class Lasting(MemoryTransport):
    """As if it outlived its process."""

    @property
    def capabilities(self) -> Capabilities:
        """Durable, they say."""
        return replace(super().capabilities, durable=True)


def bar() -> Bar:
    """N12."""
    goal = Goal(figure="rate", at_least=800, where_base=1_194)
    dbos = []
    if find_spec("dbos") is not None:
        dbos.append(case("N12", f"DBOS, {AT_ONCE} at once", 300, _dbos))
    return Bar(
        name="N12",
        what="three-step sagas to their end, with the effect fence at each step",
        ratio_of="rate",
        cases=[
            case("N12", f"asyncpg journal, {AT_ONCE} at once", 2000, _by_hand),
            case("N12", "eventbus, a lasting transport in memory", 2000, _lasting, goal),
            case("N12", "eventbus, the same by two processes on one database", 2000, _by_two, goal),
            case("N12", "eventbus, memory://", 1000, _volatile),
            *dbos,
        ],
    )


BARS = {"N12": bar}


async def _lasting(world: World, n: int) -> None:
    await _sagas(world, n, Lasting(MemoryBroker()))


async def _by_two(world: World, n: int) -> Figures:
    """Each relays what stands in its half of the outbox, and handles it: both cores have work."""
    command = (sys.executable, "-m", "benchmarks.sagas", world.storage.config.dsn)
    helper = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert helper.stdout is not None
    assert await helper.stdout.readline() == b"works\n"
    await _sagas(world, n, Lasting(MemoryBroker()), most=40)
    spent, _ = await helper.communicate(b"\n")
    assert helper.returncode == 0
    return {"cpu_us": (world.clock.cpu_seconds + float(spent)) / n * 1e6}


async def _helping(url: str) -> None:
    """Works until a line comes; then tells what it took, in CPU seconds."""
    config = PostgresConfig(dsn=url, service="bench")
    bus = _bus(PostgresStorage(config), Lasting(MemoryBroker()))
    async with bus:
        print("works", flush=True)
        gc.collect()
        gc.freeze()
        collect_rarely()
        began = cpu_seconds()
        await asyncio.to_thread(sys.stdin.readline)
        print(cpu_seconds() - began)


async def _volatile(world: World, n: int) -> None:
    await _sagas(world, n, MemoryTransport(MemoryBroker()))


async def _sagas(world: World, n: int, transport: Transport, most: int = 64) -> None:
    """The clock runs once no process holds more than so many partitions of the outbox."""
    bus = _bus(PostgresStorage(world.storage.config), transport)
    async with asyncio.timeout(LONG_SECONDS), bus:
        await _shared_out(world, most)
        async with timed(world):
            await _from_began_to_completed(world, bus, n)


async def _shared_out(world: World, most: int) -> None:
    while not 0 < (await world.admin.fetchval(HELD) or 0) <= most:  # noqa: ASYNC110 - as `completed`
        await asyncio.sleep(0.05)


async def _from_began_to_completed(world: World, bus: EventBus, n: int) -> None:
    for start in range(0, n, STARTED):
        await begin(bus, range(start, min(n, start + STARTED)))
    await completed(world, n)


def _bus(storage: PostgresStorage, transport: Transport) -> EventBus:
    return EventBus(transport, storage=storage, handlers=[Three, *PARTICIPANTS], service="bench")


async def begin(bus: EventBus, numbers: Iterable[int]) -> None:
    """Publish what starts these sagas, in one transaction."""
    async with bus.transaction() as tx:
        for number in numbers:
            await tx.publish(Began(order=str(number)))


async def completed(world: World, amount: int) -> None:
    """Return when so many sagas have ended."""
    while await world.admin.fetchval(COMPLETED) < amount:  # noqa: ASYNC110 - rows tell nobody
        await asyncio.sleep(0.05)


async def _dbos(world: World, n: int) -> None:
    from benchmarks.peer_dbos import three_steps

    await three_steps(world, n, at_once=AT_ONCE)


async def _by_hand(world: World, n: int) -> None:
    await world.admin.execute(
        "CREATE TABLE journal (saga int, step int, state bytea, PRIMARY KEY (saga, step))"
    )
    pool = await asyncpg.create_pool(world.storage.config.dsn, min_size=8, max_size=8)
    left = iter(range(n))

    async def one_after_another() -> None:
        for saga in left:
            for number in range(5):
                async with pool.acquire() as connection:
                    query = "INSERT INTO journal VALUES ($1, $2, $3)"
                    await connection.execute(query, saga, number, b'{"order":"A-1","done":1}')

    async with pool, timed(world):
        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(_helping(sys.argv[1]))
