"""`--http`: what the probes answer for a bus that runs, and what is measured beside it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from eventbus.observability.figures import DatabaseFigures
from eventbus.observability.probes import LoopTick, Probes
from eventbus.observability.prometheus import PrometheusInstrumentation
from eventbus.service import end, pause

if TYPE_CHECKING:
    from eventbus.bus import EventBus, Health
    from eventbus.inspection import Inspected
    from eventbus.instrumentation import Instrumentation

ANSWER_SECONDS = 0.5  # a kubelet waits for one
_LOOK_SECONDS = 0.2


def instrumentation_of(bus: "EventBus") -> "Instrumentation | None":
    """What the app chose, else Prometheus where its client is installed."""
    if bus.instrumentation is not None or find_spec("prometheus_client") is None:
        return bus.instrumentation
    return PrometheusInstrumentation()


@asynccontextmanager
async def serving(
    bus: "EventBus", host: str, port: int, *, info: dict[str, Any]
) -> AsyncIterator[int]:
    """Serve the probes of a bus while the block runs; yields the port.

    Readiness is asked of the loop at each request, so that it is gone with the first signal; where
    the loop does not answer, it is not ready, and /livez says how long it has not run.

    Raises:
        ConfigurationError: EB1008, the address cannot be bound.
    """
    asked = Asked(bus, asyncio.get_running_loop())
    tick = LoopTick(instrumentation=bus.instrumentation)
    probes = Probes(
        host,
        port,
        live=asked.live,
        ready=asked.ready,
        metrics=asked.metrics(),
        info=lambda: info,
        tick=tick,
    )
    probes.start()
    stopping = asyncio.Event()
    beside = [
        asyncio.create_task(tick.run(stopping), name="probes:tick"),
        asyncio.create_task(measure(bus, stopping), name="probes:figures"),
    ]
    try:
        yield probes.port
    finally:
        stopping.set()
        await asyncio.to_thread(probes.stop)
        await end(beside)


async def measure(bus: "EventBus", stopping: asyncio.Event) -> None:
    """Report the gauges of the database, once it is open."""
    if bus.storage is None or bus.instrumentation is None:
        return
    while bus.storage.trouble is not None:
        if await pause(stopping, _LOOK_SECONDS):
            return
    inspection = cast("Inspected", bus.storage).inspection
    await DatabaseFigures(inspection, bus.instrumentation).run(stopping)


class Asked:
    """The health of a bus, asked from threads of the server."""

    def __init__(self, bus: "EventBus", loop: asyncio.AbstractEventLoop) -> None:
        self._bus = bus
        self._loop = loop

    def live(self) -> tuple[bool, list[str]]:
        """What the bus says; a loop that is busy is the tick's business."""
        health = self._health()
        live = health is None or health.live
        return self._told("livez", live), [] if live or health is None else list(health.causes)

    def ready(self) -> tuple[bool, list[str]]:
        """What the bus says, with the causes."""
        health = self._health()
        if health is None:
            why = [f"the event loop has not answered within {ANSWER_SECONDS} s"]
            return self._told("readyz", False), why
        return self._told("readyz", health.ready), list(health.causes)

    def metrics(self) -> Callable[[], bytes] | None:
        """The answer to a scrape, if the bus reports to Prometheus."""
        instrumentation = self._bus.instrumentation
        if not isinstance(instrumentation, PrometheusInstrumentation):
            return None

        def scraped() -> bytes:
            self.live()
            self.ready()
            return instrumentation.text()

        return scraped

    def _told(self, probe: str, ok: bool) -> bool:
        if self._bus.instrumentation is not None:
            self._bus.instrumentation.gauge("healthy", float(ok), probe=probe)
        return ok

    def _health(self) -> "Health | None":
        asking = self._bus.health()
        try:
            return asyncio.run_coroutine_threadsafe(asking, self._loop).result(ANSWER_SECONDS)
        except NoAnswerError:
            return None
        except RuntimeError:  # the loop is closed: nobody will await it
            asking.close()
            return None
