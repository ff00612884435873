"""What runs inside an entered bus: services, their soft stop, their hard stop."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

log = logging.getLogger("eventbus.service")


class Service(Protocol):
    """Until `stopping` is set, then finish what is in flight; cancelling is the hard stop."""

    async def run(self, stopping: asyncio.Event) -> None: ...


async def supervise(
    services: Mapping[str, Service], stopping: asyncio.Event, *, wait_seconds: float = 1.0
) -> None:
    """Run services until all have stopped; one that fails is logged and started again, with growing waits (B8).

    Each runs in a task named like its key. A service that ends by itself before `stopping` is done and stays down.
    """
    async with asyncio.TaskGroup() as tasks:
        for name, service in services.items():
            tasks.create_task(_keep_up(name, service, stopping, wait_seconds), name=name)


async def _keep_up(
    name: str, service: Service, stopping: asyncio.Event, wait_seconds: float
) -> None:
    failures = 0
    while not stopping.is_set():
        try:
            return await service.run(stopping)
        except Exception:  # whatever it was: it is logged whole, and the service starts again
            log.exception("service %s failed and starts again", name)
        failures += 1
        await pause(stopping, min(30.0, wait_seconds * 2 ** min(failures - 1, 5)))


async def pause(stopping: asyncio.Event, seconds: float) -> bool:
    """Sleep, or wake up as soon as `stopping` is set; True if it is."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True


async def end(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel tasks and wait for them; their errors are logged, not raised."""
    ended = [task for task in tasks if not task.done()]
    for task in ended:
        task.cancel()
    for result in await asyncio.gather(*ended, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("a task failed while it was ended", exc_info=result)
