"""`--http`: what the probes answer for a bus that runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventbus.observability.probes import LoopTick, Probes
from eventbus.service import end

if TYPE_CHECKING:
    from eventbus.bus import EventBus, Health

ANSWER_SECONDS = 0.5  # a kubelet waits for one


@asynccontextmanager
async def serving(
    bus: "EventBus", host: str, port: int, *, info: dict[str, Any]
) -> AsyncIterator[int]:
    """Serve the probes of a bus while the block runs; yields the port.

    Readiness is asked of the loop at each request, so that it is gone with the first signal; where
    the loop does not answer, it is not ready, and /livez says how long it has not run.
    """
    asked = Asked(bus, asyncio.get_running_loop())
    tick = LoopTick()
    stopping = asyncio.Event()
    ticking = asyncio.create_task(tick.run(stopping), name="probes:tick")
    probes = Probes(
        host,
        port,
        live=asked.live,
        ready=asked.ready,
        metrics=metrics_of(bus),
        info=lambda: info,
        tick=tick,
    )
    try:
        probes.start()
        yield probes.port
    finally:
        await asyncio.to_thread(probes.stop)
        stopping.set()
        await end([ticking])


class Asked:
    """The health of a bus, asked from threads of the server."""

    def __init__(self, bus: "EventBus", loop: asyncio.AbstractEventLoop) -> None:
        self._bus = bus
        self._loop = loop

    def live(self) -> tuple[bool, list[str]]:
        """What the bus says; a loop that is busy is the tick's business."""
        health = self._health()
        return (True, []) if health is None or health.live else (False, list(health.causes))

    def ready(self) -> tuple[bool, list[str]]:
        """What the bus says, with the causes."""
        health = self._health()
        if health is None:
            return False, [f"the event loop has not answered within {ANSWER_SECONDS} s"]
        return health.ready, list(health.causes)

    def _health(self) -> "Health | None":
        try:
            answer = asyncio.run_coroutine_threadsafe(self._bus.health(), self._loop)
            return answer.result(ANSWER_SECONDS)
        except (NoAnswerError, RuntimeError):  # RuntimeError: the loop is closed
            return None


def metrics_of(bus: "EventBus") -> Callable[[], bytes] | None:
    """The answer to a scrape, if the bus reports to Prometheus."""
    from eventbus.observability.prometheus import PrometheusInstrumentation

    instrumentation = bus.instrumentation
    return instrumentation.text if isinstance(instrumentation, PrometheusInstrumentation) else None
