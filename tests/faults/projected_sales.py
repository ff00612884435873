"""What is projected: sales by country, folded, inline and applied; one order is poison at first."""

from collections.abc import Sequence
from typing import cast

from eventbus import Event, EventBus
from eventbus.sourcing import FoldingProjection, ReadModel, RecordedEvent, View, projects

POISON = 13


class Code:
    """The version of the code that runs in this process."""

    mended = False


class Sold(Event, type="shop.sold", key="order"):
    order: str
    country: str
    cents: int


class Sales(ReadModel, table="sales", key="country"):
    country: str
    orders: int = 0
    cents: int = 0


class SalesByCountry(FoldingProjection[Sales], name="sales"):
    @projects(Sold, key=lambda event: event.country)
    def sold(self, row: Sales, event: Sold) -> Sales:
        if not Code.mended and event.cents == POISON:
            raise ValueError("poison")
        return row.model_copy(update={"orders": row.orders + 1, "cents": row.cents + event.cents})


class SalesInline(SalesByCountry, name="sales", runs="inline"):
    """The same within the appends."""


class SalesApplied:
    """The same by the general form: a table of its own, under the same name."""

    name = "sales"
    tables = ("sales",)
    handles = (Sold,)
    by_stream = True

    async def apply(self, events: Sequence[RecordedEvent], view: View) -> None:
        for one in events:
            event = cast("Sold", one.event)
            if not Code.mended and event.cents == POISON:
                raise ValueError("poison")
            await view.sql.execute(
                f"INSERT INTO {view.table('sales')} AS s VALUES ($1, 1, $2)"
                " ON CONFLICT (country) DO UPDATE"
                " SET orders = s.orders + 1, cents = s.cents + excluded.cents",
                event.country,
                event.cents,
            )

    async def made(self, bus: EventBus) -> None:
        async with bus.transaction() as tx:
            await tx.sql.execute(
                "CREATE TABLE sales (country text PRIMARY KEY, orders bigint, cents bigint)"
            )
