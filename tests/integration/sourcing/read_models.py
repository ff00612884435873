"""Projections with tables of their own for each test, and the events that they follow."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import new_class
from typing import Any

from eventbus import Event, EventBus
from eventbus.sourcing import FoldingProjection, ReadModel, RecordedEvent, View, projects
from eventbus.storage.events import Position
from eventbus.testing.conformance.samples import unique
from tests.unit.sourcing.declarations import Placed, Withdrawn

COUNTRIES = ("UK", "FR", "DE", "IT", "ES", "PT", "NL", "BE")
ENOUGH_SECONDS = 20.0
LONG = timedelta(seconds=60)  # a loaded machine, and the one before may hold the lease


class Sum:
    """A projection of sums by country, and what it should have come to.

    `refused` may be changed while it runs: cents at which its function fails.
    """

    def __init__(self, *, shards: int = 1, version: int = 1, runs: Any = "following") -> None:
        self.name = unique("revenue")
        self.refused: set[int] = set()
        self.shards, self.version, self.runs = shards, version, runs
        self.factor = 1

    def model(self) -> type[ReadModel]:
        class Revenue(ReadModel, table=self.name, key="country"):
            country: str
            orders: int = 0
            cents: int = 0
            last: str | None = None

        return Revenue

    def projection(self) -> Any:
        """A class; made anew it is the same code."""
        test = self

        class Folds:
            @projects(Placed, key=lambda event: event.country)
            def placed(self, row: Any, event: Placed) -> Any:
                if event.cents in test.refused:
                    raise ValueError(f"an order of {event.cents}")
                return row.model_copy(
                    update={
                        "orders": row.orders + 1,
                        "cents": row.cents + event.cents * test.factor,
                        "last": event.order_id,
                    }
                )

            @projects(Withdrawn, key=lambda event: event.country)
            def withdrawn(self, row: Any, event: Withdrawn) -> Any:
                return None

        folding: Any = FoldingProjection
        keywords = {"name": self.name, "runs": self.runs}
        numbers = {"shards": self.shards, "version": self.version}
        return new_class("Revenues", (Folds, folding[self.model()]), keywords | numbers)

    async def rows(self, bus: EventBus, table: str | None = None) -> dict[str, tuple[int, int]]:
        assert bus.storage is not None
        async with bus.storage.transaction() as tx:
            found = await tx.sql.fetch(f"SELECT * FROM {table or self.name}")
        return {row["country"]: (row["orders"], row["cents"]) for row in found}


class Journal:
    """A projection of the general form: it lists what it got, and publishes."""

    def __init__(self) -> None:
        self.name = unique("journal")
        self.handles = (Placed,)
        self.refused: set[int] = set()
        self.replayed: list[int] = []
        self.announces: type[Event] | None = None
        self.runs = "following"

    async def apply(self, events: Sequence[RecordedEvent], view: View) -> None:
        for one in events:
            event = one.event
            assert isinstance(event, Placed)
            await view.sql.execute(
                f"INSERT INTO {view.table(self.name)} (position, cents) VALUES ($1, $2)",
                one.recorded.position,
                event.cents,
            )
            if view.replaying:
                self.replayed.append(event.cents)
            if event.cents in self.refused:
                raise ValueError(f"an order of {event.cents}")
            if self.announces is not None:
                await view.publish(Withdrawn(order_id=event.order_id, country=event.country))

    async def create(self, bus: EventBus) -> None:
        async with bus.transaction() as tx:
            await tx.sql.execute(
                f"CREATE TABLE {self.name} (position bigint PRIMARY KEY, cents bigint)"
            )

    async def cents(self, bus: EventBus) -> list[int]:
        assert bus.storage is not None
        async with bus.storage.transaction() as tx:
            rows = await tx.sql.fetch(f"SELECT cents FROM {self.name} ORDER BY position")
        return [row["cents"] for row in rows]


def stream_of(country: str) -> str:
    """Events of one country are in one stream."""
    return f"country-{country}"


async def sell(bus: EventBus, *orders: tuple[str, int]) -> Position:
    """Append orders of countries and cents, each in a transaction of its own; the last position."""
    position = Position(0)
    for number, (country, cents) in enumerate(orders):
        event = Placed(order_id=f"{country}-{number}", country=country, cents=cents)
        appended = await bus.events.append(
            stream_of(country), [event], expected="any", publish=False
        )
        position = appended.position
    return position


async def sell_many(bus: EventBus, amount: int) -> dict[str, tuple[int, int]]:
    """Append so many orders, in few transactions; the sums of them."""
    sums: dict[str, tuple[int, int]] = {}
    batches: dict[str, list[Event]] = {}
    for number in range(amount):
        country = COUNTRIES[zlib.crc32(str(number).encode()) % len(COUNTRIES)]
        orders, cents = sums.get(country, (0, 0))
        sums[country] = orders + 1, cents + number
        event = Placed(order_id=str(number), country=country, cents=number)
        batches.setdefault(country, []).append(event)
    for country, events in batches.items():
        for first in range(0, len(events), 200):
            await bus.events.append(
                stream_of(country), events[first : first + 200], expected="any", publish=False
            )
    return sums


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Return once it is so."""
    async with asyncio.timeout(ENOUGH_SECONDS):
        while not await true():  # noqa: ASYNC110 - what another task or process does to a database
            await asyncio.sleep(0.01)
