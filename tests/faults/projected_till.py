"""Orders that keep coming in while a read model is broken on purpose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

from eventbus import EventBus
from eventbus.errors import ConcurrencyError, StorageError
from eventbus.storage.events import Position
from tests.faults.projected_sales import Sold
from tests.integration.sourcing.read_models import until

ENOUGH = timedelta(seconds=60)


class Till:
    """Sells until it is closed; knows what was recorded."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._number = 0
        self.sold = 0
        self.refused = 0
        self.position = Position(0)
        self.closed = asyncio.Event()

    async def run(self) -> None:
        """Each order into a stream of its own: one whose answer was lost is not recorded twice."""
        while not self.closed.is_set():
            self._number += 1
            event = Sold(order=str(self._number), country="UK", cents=1)
            while True:
                try:
                    done = await self._bus.events.append(
                        f"till-{self._number}", [event], expected="absent", publish=False
                    )
                except ConcurrencyError:
                    break  # it was recorded, and the answer lost
                except StorageError:
                    self.refused += 1
                    await asyncio.sleep(0)
                else:
                    self.position = done.position
                    break
            self.sold += 1

    async def reaches(self, sold: int) -> None:
        """So many more are recorded."""
        wanted = self.sold + sold

        async def is_there() -> bool:
            return self.sold >= wanted

        await until(is_there)


@contextlib.asynccontextmanager
async def selling(bus: EventBus) -> AsyncIterator[Till]:
    till = Till(bus)
    running = asyncio.create_task(till.run(), name="test:till")
    try:
        yield till
    finally:
        till.closed.set()
        await running
