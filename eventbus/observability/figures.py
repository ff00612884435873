"""The gauges of the database, read now and then."""

import asyncio
import logging
from collections.abc import Mapping

from eventbus.errors import StorageError
from eventbus.inspection import Inspection
from eventbus.instrumentation import Instrumentation
from eventbus.observability.prometheus import NAMES
from eventbus.service import pause

log: logging.Logger = logging.getLogger("eventbus.observability")

DEADLINE_SECONDS = 10.0


class DatabaseFigures:
    """A service that reports what `Inspection.figures()` finds, every 15 s.

    A series that is not among the figures any more, a group whose last dead letter is gone, is
    reported as 0. While the database cannot be read the last values stay.
    """

    def __init__(
        self,
        inspection: Inspection,
        instrumentation: Instrumentation,
        *,
        every_seconds: float = 15.0,
    ) -> None:
        self._inspection = inspection
        self._instrumentation = instrumentation
        self._every_seconds = every_seconds
        self._reported: frozenset[str] = frozenset()

    async def run(self, stopping: asyncio.Event) -> None:
        """Report until `stopping` is set."""
        while not stopping.is_set():
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    figures = await self._inspection.figures()
            except (StorageError, TimeoutError) as error:
                log.warning("the figures of the database cannot be read: %s", error)
            else:
                self.report(figures)
            await pause(stopping, self._every_seconds)

    def report(self, figures: Mapping[str, float]) -> None:
        """Report figures by their names: `parked_messages{billing}`."""
        gone = dict.fromkeys(self._reported - figures.keys(), 0.0)
        for figure, value in {**gone, **figures}.items():
            name, labels = parsed(figure)
            self._instrumentation.gauge(name, value, **labels)
        self._reported = self._reported | figures.keys()


def parsed(figure: str) -> tuple[str, Mapping[str, str]]:
    """Name and labels of a figure: values stand in braces, in the order of the table's labels."""
    name, _, values = figure.removesuffix("}").partition("{")
    if name not in NAMES or not values:
        return name, {}
    labels = NAMES[name].labels
    return name, dict(zip(labels, values.split(",", len(labels) - 1), strict=False))
