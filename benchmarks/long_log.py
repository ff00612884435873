"""LOG1M: the log read from end to end in the memory of a few pages; a process of its own."""

import asyncio
import gc
import json
import sys
from collections.abc import Iterator

from benchmarks.flat import MARKS, in_a_process
from benchmarks.measure import memory_mib
from benchmarks.rounds import Bar, Case, Goal
from eventbus import Event, EventBus
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.testing.services import running
from eventbus.testing.services.postgres import create_database, drop_database

STREAM = 100  # events


class Noted(Event, type="bench.noted"):
    number: int
    text: str


def bar() -> Bar:
    """Resident memory at 10, 50 and 100 %: from 10 on a tenth more at most."""
    return Bar(
        name="LOG1M",
        what="1,000,000 events of PostgreSQL read into models; resident memory in MiB",
        ratio_of="peak_mib",
        cases=[
            Case(
                bar="LOG1M",
                name="bus.events.search",
                n=1_000_000,
                run=in_a_process("benchmarks.long_log"),
                goal=Goal(figure="growth", at_most=1.1),
                most=1,
            )
        ],
    )


async def main(n: int) -> dict[str, float]:
    """Load them, then read all of them; what memory was on the way."""
    with running("postgres") as server:
        url = create_database(server.url)
        try:
            return await _measured(url, n)
        finally:
            drop_database(url)


async def _measured(url: str, n: int) -> dict[str, float]:
    storage = PostgresStorage(PostgresConfig(dsn=url, service="bench"))
    await storage.upgrade()
    figures: dict[str, float] = {}
    async with EventBus("memory://", storage=storage, handlers=[Noted]) as bus:
        await bus.events.load(_streams(n))
        gc.collect()
        figures["rss_0_mib"] = memory_mib("VmRSS")
        read = total = 0
        async for one in bus.events.search():
            event = one.event
            assert isinstance(event, Noted)
            read += 1
            total += event.number
            percent = read * 100 // n
            if percent in MARKS and f"rss_{percent}_mib" not in figures:
                figures[f"rss_{percent}_mib"] = memory_mib("VmRSS")
    if (read, total) != (n, n * (n - 1) // 2):
        raise AssertionError(f"{read} events of {n}")
    return {
        **figures,
        "peak_mib": memory_mib("VmHWM"),
        "growth": figures["rss_100_mib"] / figures["rss_10_mib"],
    }


def _streams(n: int) -> Iterator[tuple[str, list[Event]]]:
    for start in range(0, n, STREAM):
        events: list[Event] = [
            Noted(number=number, text="x" * 100) for number in range(start, start + STREAM)
        ]
        yield f"note-{start}", events


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
