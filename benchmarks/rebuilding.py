"""N11: a rebuild by one process, and by one that leads and one that helps."""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from typing import Any

from benchmarks.measure import memory_mib
from benchmarks.postgres import World, case, timed
from benchmarks.projections import LONG, PER_KEY, Sold, copied_by_hand, rebuilt
from benchmarks.rounds import Bar, Figures, Goal
from eventbus import EventBus
from eventbus.cli.process import collect_rarely
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sourcing.rebuild import Beat, Options

PROCESSES = 2
EXTRA = Options(parts=PROCESSES, require_equal=True)


class Product(ReadModel, table="by_stream", key="product"):
    product: str
    sold: int = 0
    cents: int = 0
    last: str = ""


class ByStream(FoldingProjection[Product], name="by-stream", by_stream=True):
    """As `Products`, and all events of a product are of one stream."""

    @projects(Sold, key=lambda event: event.product)
    def sold(self, row: Product, event: Sold) -> Product:
        return row.model_copy(
            update={
                "sold": row.sold + 1,
                "cents": row.cents + event.cents,
                "last": event.order,
            }
        )


def bar() -> Bar:
    """From the first read to caught up; verifying is told apart, as above_ms.

    The peak of memory is that of the process that helps: it did not write the log before.
    """
    goal = Goal(figure="rate", at_least=120_000, where_base=318_000)
    return Bar(
        name="N11",
        what="rebuild from so many events, to caught up",
        ratio_of="rate",
        cases=[
            case("N11", "asyncpg by hand, dict and COPY", 200_000, copied_by_hand),
            case("N11", "one part", 200_000, rebuilt(1)),
            case("N11", "two parts in turn", 200_000, rebuilt(2)),
            case("N11", "by stream, two processes", 1_000_000, rebuilt_by_two, goal),
        ],
    )


def bus_on(url: str) -> EventBus:
    storage = PostgresStorage(PostgresConfig(dsn=url, service="bench"))
    return EventBus("memory://", storage=storage, handlers=[ByStream])


async def rebuilt_by_two(world: World, n: int) -> Figures:
    url = world.storage.config.dsn
    bus = bus_on(url)
    async with bus:
        await bus.events.load(_streams(n))
        bound = (await world.storage.read_bound()).bound
        await bus.projections.wait("by-stream", bound, at_most=LONG)
    began: dict[str, float] = {}

    def note(beat: Beat) -> None:
        began.setdefault(beat.phase, time.perf_counter())

    helper = await _helper(url)
    collect_rarely()  # as the command does
    async with bus.client(), timed(world):
        rebuilt = await bus.projections.rebuild("by-stream", options=EXTRA, beat=note)
    peak_mib, _ = await helper.communicate()
    assert helper.returncode == 0
    assert rebuilt.difference.equal == n // PER_KEY
    caught_up = began["verify"] - began["plan"]
    return {
        "rate": n / caught_up,
        "ms": caught_up * 1000,
        "above_ms": (began["done"] - began["verify"]) * 1000,
        "peak_mib": float(peak_mib),
    }


def _streams(n: int) -> Iterator[tuple[str, list[Any]]]:
    for product in range(n // PER_KEY):
        name = f"product-{product}"
        yield (
            name,
            [
                Sold(order=f"order-{product}-{number}", product=name, cents=number)
                for number in range(PER_KEY)
            ],
        )


async def _helper(url: str) -> Process:
    """It waits for the rebuild to begin, and is connected by then."""
    command = (sys.executable, "-m", "benchmarks.rebuilding", url)
    helper = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert helper.stdout is not None
    assert await helper.stdout.readline() == b"waits\n"
    return helper


async def help_with_it(url: str) -> None:
    bus = bus_on(url)
    async with bus.client():
        print("waits", flush=True)
        collect_rarely()
        await bus.projections.assist("by-stream", options=EXTRA)
        print(memory_mib("VmHWM"))


if __name__ == "__main__":
    asyncio.run(help_with_it(sys.argv[1]))
