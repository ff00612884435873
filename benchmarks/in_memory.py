"""N1: a typed event published and handled in one process, bytes in between."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from typing import TypeVar

from benchmarks.measure import Clock
from benchmarks.message import OrderFields, OrderPlaced, orders, raw_orders
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import EventBus, subscribe

IN_FLIGHT = 100
T = TypeVar("T")
N = 60_000


class Count:
    """Handles so many, then says so."""

    def __init__(self, wanted: int) -> None:
        self.left = wanted
        self.all = asyncio.Event()

    def one(self) -> None:
        """One more is handled."""
        self.left -= 1
        if self.left == 0:
            self.all.set()


def bar() -> Bar:
    """Ours beside a loop by hand, and beside taskiq if it is installed."""
    cases = [
        Case(bar="N1", name="asyncio.Queue and pydantic both ways", n=N, run=measured(by_hand)),
        Case(bar="N1", name="eventbus, one at a time", n=N, run=measured(one_at_a_time)),
        Case(
            bar="N1",
            name=f"eventbus, {IN_FLIGHT} in flight",
            n=N,
            run=measured(in_flight),
            goal=Goal(figure="cpu_us", at_most=20.0),
        ),
    ]
    if find_spec("taskiq") is not None:
        cases.append(
            Case(bar="N1", name=f"taskiq in memory, {IN_FLIGHT} in flight", n=20_000, run=_taskiq)
        )
    return Bar(name="N1", what="in memory, typed", ratio_of="cpu_us", cases=cases)


def measured(work: Callable[[int, Clock], Awaitable[None]]) -> Callable[[int], Figures]:
    """A run of it in a loop of its own."""

    async def run(n: int) -> Figures:
        clock = Clock()
        await work(n, clock)
        return {
            "rate": n / clock.seconds,
            "cpu_us": clock.cpu_seconds / n * 1e6,
            "noise": clock.noise,
        }

    return lambda n: asyncio.run(run(n))


async def by_hand(n: int, clock: Clock) -> None:
    """What one writes without a framework."""
    models = raw_orders(n)
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    count = Count(n)

    async def handle() -> None:
        while True:
            OrderFields.model_validate_json(await queue.get())
            count.one()

    task = asyncio.create_task(handle())
    with clock:
        for model in models:
            await queue.put(model.model_dump_json().encode())
        await count.all.wait()
    task.cancel()


async def one_at_a_time(n: int, clock: Clock) -> None:
    """Each publish after the one before has returned."""
    await _publish(n, clock, tasks=1)


async def in_flight(n: int, clock: Clock) -> None:
    """A hundred tasks that publish."""
    await _publish(n, clock, tasks=IN_FLIGHT)


async def _publish(n: int, clock: Clock, tasks: int) -> None:
    count = Count(n)

    @subscribe(OrderPlaced, group="bench")
    async def handle(event: OrderPlaced) -> None:
        count.one()

    events = orders(n)
    async with EventBus("memory://", handlers=[handle]) as bus:
        await on_all(iter(events), bus.publish, clock, tasks, count)


async def on_all(
    items: Iterator[T],
    publish: Callable[[T], Awaitable[object]],
    clock: Clock,
    tasks: int,
    count: Count,
) -> None:
    """Publish all from so many tasks, and wait until all are handled."""

    async def work() -> None:
        for item in items:
            await publish(item)

    with clock:
        await asyncio.gather(*(work() for _ in range(tasks)))
        await count.all.wait()


def _taskiq(n: int) -> Figures:
    from benchmarks.peers import taskiq_in_memory

    return measured(taskiq_in_memory)(n)
