"""FLAT: memory stays where it is, however many messages or sagas go through; a process per run."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from benchmarks.measure import Clock, memory_mib
from benchmarks.message import OrderPlaced, fields, orders
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import Context, EventBus, subscribe
from eventbus.message import new_id
from eventbus.storage.sagas import SagaQuery
from eventbus.testing.services import running
from eventbus.testing.services.kafka import delete_topics
from eventbus.testing.services.rabbitmq import create_vhost, delete_vhost

MARKS = (10, 50, 100)  # per cent of the messages
CHUNK = 1000


def bar() -> Bar:
    """Resident memory and blocks of Python at 10, 50 and 100 %: from 10 on a tenth more at most.

    On SQLite resident memory says little: the page cache fills up to its 64 MiB with the inbox.
    """
    return Bar(
        name="FLAT",
        what="resident memory in MiB; growth from 10 to 100 % of the messages or sagas",
        ratio_of="peak_mib",
        cases=[
            Case(
                bar="FLAT",
                name=name,
                n=n,
                run=in_a_process("benchmarks.flat", name),
                goal=Goal(figure=figure, at_most=1.1),
                most=1,
            )
            for name, n, figure in (
                ("memory", 1_000_000, "growth"),
                ("sqlite", 200_000, "blocks_growth"),
                ("sagas", 100_000, "blocks_growth"),
                ("kafka", 1_000_000, "growth"),
                ("rabbit", 1_000_000, "growth"),
            )
        ],
    )


def in_a_process(module: str, *arguments: str) -> Callable[[int], Figures]:
    """A module of benchmarks as a process, which prints its figures."""

    def run(n: int) -> Figures:
        clock = Clock()
        with clock:
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments, str(n)],
                check=True,
                capture_output=True,
                text=True,
            )
        figures: dict[str, float] = json.loads(done.stdout)
        return {"rate": n / clock.seconds, **figures, "noise": clock.noise}

    return run


class Handled:
    """How many were handled, and waiting for it."""

    def __init__(self) -> None:
        self._done = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    def one(self) -> None:
        """One more."""
        self._done += 1
        if self._done >= self._wanted:
            self._reached.set()

    async def reach(self, wanted: int) -> None:
        """Return when so many are: the publisher stays that near."""
        if self._done < wanted:
            self._wanted = wanted
            self._reached.clear()
            await self._reached.wait()


class Marks:
    """What memory was on the way."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._rss: dict[int, float] = {}
        self._blocks: dict[int, int] = {}
        self._tasks: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}

    async def pass_by(self, done: int, bus: EventBus) -> None:
        """At a mark wait until nothing is on its way, then look."""
        percent = done * 100 // self._n
        if percent in MARKS and percent not in self._rss:
            await bus.until_idle(at_most=timedelta(minutes=1))
            gc.collect()
            self._rss[percent] = memory_mib("VmRSS")
            self._blocks[percent] = sys.getallocatedblocks()
            self._tasks[percent] = len(asyncio.all_tasks())
            self._descriptors[percent] = len(os.listdir("/proc/self/fd"))

    def figures(self) -> dict[str, float]:
        """At each mark, and how much it grew from the first to the last."""
        return {
            **{f"rss_{percent}_mib": mib for percent, mib in self._rss.items()},
            "peak_mib": memory_mib("VmHWM"),
            "growth": self._rss[100] / self._rss[10],
            "blocks_growth": self._blocks[100] / self._blocks[10],
            "more_tasks": self._tasks[100] - self._tasks[10],
            "more_descriptors": self._descriptors[100] - self._descriptors[10],
        }


async def main(name: str, n: int) -> dict[str, float]:
    """So many messages or sagas; what memory was on the way."""
    marks = Marks(n)
    with tempfile.TemporaryDirectory() as folder:
        file = f"sqlite:///{Path(folder) / 'flat.db'}"
        if name == "sagas":
            await _sagas(n, file, marks)
        elif name in {"kafka", "rabbit"}:
            await _through_a_broker(name, n, marks)
        else:
            await _messages(n, file if name == "sqlite" else None, marks)
    return marks.figures()


async def _messages(n: int, storage: str | None, marks: Marks) -> None:
    """Publish and handle n messages, a thousand at a time."""
    handled = Handled()

    @subscribe(OrderPlaced, group="bench")
    async def handle(event: OrderPlaced, ctx: Context) -> None:
        handled.one()

    # what the broker keeps for those who come late is full long before the first mark
    async with EventBus("memory://?retain=2000", storage=storage, handlers=[handle]) as bus:
        for done in range(CHUNK, n + 1, CHUNK):
            await _publish(bus, storage is not None)
            await handled.reach(done - 2 * CHUNK)
            await marks.pass_by(done, bus)


async def _through_a_broker(name: str, n: int, marks: Marks) -> None:
    """Publish, confirmed, and handle n messages, a thousand at a time."""
    handled, topic = Handled(), f"bench-{new_id()}"

    class Here(OrderPlaced, type="bench.order-placed", key="order_id", topic=topic):
        pass

    @subscribe(Here, group=topic)
    async def handle(event: OrderPlaced) -> None:
        handled.one()

    with running(name) as service, _cleared(name, service.url, topic) as url:
        async with EventBus(url, handlers=[handle], service="bench") as bus:
            for done in range(CHUNK, n + 1, CHUNK):
                events = [Here(**fields(number)) for number in range(done - CHUNK, done)]
                await asyncio.gather(*map(bus.publish, events))
                await handled.reach(done - 2 * CHUNK)
                await marks.pass_by(done, bus)


@contextmanager
def _cleared(name: str, url: str, topic: str) -> Iterator[str]:
    """Where to publish; what was made there is deleted."""
    if name == "kafka":
        try:
            yield f"{url}?provision=true&partitions=6&replication=1"
        finally:
            delete_topics(url, topic)
        return
    there = create_vhost(url)
    try:
        yield there
    finally:
        delete_vhost(there)


async def _sagas(n: int, storage: str, marks: Marks) -> None:
    """Sagas of three steps with their participants, from start to end, a thousand at a time."""
    from benchmarks.sagas import PARTICIPANTS, Began, Three

    handlers = [Three, *PARTICIPANTS]
    async with EventBus("memory://?retain=200", storage=storage, handlers=handlers) as bus:
        for done in range(CHUNK, n + 1, CHUNK):
            async with bus.transaction() as tx:
                for number in range(done - CHUNK, done):
                    await tx.publish(Began(order=str(number)))
            await bus.until_idle(at_most=timedelta(minutes=5))
            await marks.pass_by(done, bus)
        if len(await bus.sagas.list(SagaQuery(status="completed"), limit=n + 1)) != n:
            raise AssertionError("a saga did not come to its end")


async def _publish(bus: EventBus, stored: bool) -> None:
    events = orders(CHUNK)
    if not stored:
        for event in events:
            await bus.publish(event)
        return
    async with bus.transaction() as tx:
        for event in events:
            await tx.publish(event)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
