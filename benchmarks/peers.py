"""Peers, set up as their documentation advises; imported only where they are installed."""

import logging

from taskiq import InMemoryBroker  # type: ignore[import-not-found, unused-ignore]  # optional

from benchmarks.in_memory import IN_FLIGHT, Count, on_all
from benchmarks.measure import Clock
from benchmarks.message import OrderFields, raw_orders


async def taskiq_in_memory(n: int, clock: Clock) -> None:
    """taskiq: a task with one model as its argument; results are not asked for."""
    logging.getLogger("taskiq").setLevel(logging.ERROR)
    count = Count(n)
    broker = InMemoryBroker(max_stored_results=1)

    @broker.task  # type: ignore[untyped-decorator, unused-ignore]  # taskiq is optional
    async def handle(order: OrderFields) -> None:
        count.one()

    models = raw_orders(n)
    await broker.startup()
    await on_all(iter(models), handle.kiq, clock, IN_FLIGHT, count)
    await broker.shutdown()
