"""What runs inside an entered bus: services, their soft stop, their hard stop."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

log: logging.Logger = logging.getLogger("eventbus.service")

STEADY_SECONDS = 30.0  # what ran so long has recovered: its next failure is a first one


class Service(Protocol):
    """Until `stopping` is set, then finish what is in flight; cancelling is the hard stop."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until then."""
        ...


async def supervise(
    services: Mapping[str, Service], stopping: asyncio.Event, *, wait_seconds: float = 1.0
) -> None:
    """Run services until all have stopped; one that fails starts again, with growing waits (B8).

    Each runs in a task named like its key. A service that ends by itself before `stopping` is done
    and stays down.
    """
    async with asyncio.TaskGroup() as tasks:
        for name, service in services.items():
            tasks.create_task(_keep_up(name, service, stopping, wait_seconds), name=name)


async def _keep_up(
    name: str, service: Service, stopping: asyncio.Event, wait_seconds: float
) -> None:
    failures, time = 0, asyncio.get_running_loop().time
    while not stopping.is_set():
        began = time()
        try:
            await service.run(stopping)
        except Exception:  # whatever it was: it is logged whole, and the service starts again
            log.exception("service %s failed and starts again", name)
        else:
            return
        failures = 1 if time() - began > STEADY_SECONDS else failures + 1
        await pause(stopping, min(30.0, wait_seconds * 2 ** min(failures - 1, 5)))


@asynccontextmanager
async def until_signal() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Yield a function that waits for SIGTERM or SIGINT; a second one ends the process at once.

    Where the loop takes no signal handlers (Windows), the plain ones of the interpreter serve.
    """
    loop = asyncio.get_running_loop()
    received = asyncio.Event()

    def take(number: int) -> None:
        if received.is_set():
            os._exit(128 + number)  # the second one: no clean-up may keep the process alive
        log.info("signal %s: draining", signal.Signals(number).name)
        received.set()

    def take_plainly(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(take, number)

    before: dict[int, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, take, number)
        except (NotImplementedError, RuntimeError, ValueError):
            before[number] = signal.signal(number, take_plainly)
    try:
        yield received.wait
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in before:
                signal.signal(number, before[number])
            else:
                loop.remove_signal_handler(number)


async def pause(stopping: asyncio.Event, seconds: float) -> bool:
    """Sleep, or wake up as soon as `stopping` is set; True if it is."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True


async def end(tasks: Iterable[asyncio.Task[object]], *, seconds: float = 3.0) -> bool:
    """Cancel tasks and wait for them; their errors, older ones too, are logged, not raised.

    Returns:
        False if one of them swallows its cancellation: it is left alone.
    """
    ended = list(tasks)
    if not ended:
        return True
    for task in ended:
        task.cancel()  # nothing, to one that is done
    done, left = await asyncio.wait(ended, timeout=seconds)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)
    for task in left:
        log.error("task %s ignores its cancellation and is left alone", task.get_name())
    return not left


class Alarm:
    """Wakes one service: at a hint of the storage, when somebody rings, or at the stop.

    A hint is only a reason to look: what it misses the poll finds (S3).
    """

    def __init__(self, wait: Callable[[timedelta], Awaitable[None]], name: str) -> None:
        self._wait = wait
        self._name = name
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """End the rest that is going on, or the next one."""
        self._rung.set()

    async def rest(self, seconds: float) -> None:
        """Until it rings, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return
        self._rung.clear()

    @asynccontextmanager
    async def set(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Listen for hints and the stop inside the block."""
        tasks = [
            asyncio.create_task(self._hints(), name=f"{self._name}:hints"),
            asyncio.create_task(self._stop(stopping), name=f"{self._name}:stop"),
        ]
        try:
            yield
        finally:
            await end(tasks)

    async def _hints(self) -> None:
        while True:
            try:
                await self._wait(timedelta(minutes=1))
            except Exception:  # whatever it is, the poll goes on
                log.exception("%s hears no hints for a while", self._name)
                await asyncio.sleep(1)
            self.ring()

    async def _stop(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self.ring()
