"""A read model that follows the log, and is made anew while it serves. Run it: it prints this.

`ReadModel` is a row, `FoldingProjection` says what events make of it. It follows the log; its rows
and its place in the log are one commit. The second version counts cents of shipped orders only: it
is built beside the first one, compared with it, and then serves in its place, until it is undone.

Prints:
    rows: FR 1 order 700, UK 2 orders 4300
    my own write: UK 3 orders 5300
    replayed from zero: 2 rows, all equal
    the new code would change: 2 of 2 rows
    after the switch: FR 0 orders 0, UK 1 order 4200
    after the rollback: FR 1 order 700, UK 3 orders 5300
"""

# ruff: noqa: D101, D102, D103, N999 - files are numbered for readers, and the header explains them

import asyncio
import tempfile
from pathlib import Path

from eventbus import Event, EventBus
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.testing import assert_rebuild_equals_live


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    country: str
    cents: int


class OrderShipped(Event, type="shop.order-shipped", key="order_id"):
    order_id: str
    country: str
    cents: int


class Revenue(ReadModel, table="revenue", key="country"):
    country: str
    orders: int = 0
    cents: int = 0


class RevenueByCountry(FoldingProjection[Revenue], name="revenue"):
    @projects(OrderPlaced, key=lambda event: event.country)
    def placed(self, row: Revenue, event: OrderPlaced) -> Revenue:
        return row.model_copy(update={"orders": row.orders + 1, "cents": row.cents + event.cents})


class RevenueOfShipped(FoldingProjection[Revenue], name="revenue", version=2):
    @projects(OrderPlaced, key=lambda event: event.country)
    def placed(self, row: Revenue, event: OrderPlaced) -> Revenue:
        return row

    @projects(OrderShipped, key=lambda event: event.country)
    def shipped(self, row: Revenue, event: OrderShipped) -> Revenue:
        return row.model_copy(update={"orders": row.orders + 1, "cents": row.cents + event.cents})


def order(order_id: str, country: str, cents: int) -> OrderPlaced:
    return OrderPlaced(order_id=order_id, country=country, cents=cents)


async def rows(bus: EventBus) -> str:
    async with bus.transaction() as tx:
        found = await tx.sql.fetch("SELECT country, orders, cents FROM revenue ORDER BY country")
    return ", ".join(
        f"{row['country']} {row['orders']} order{'s' * (row['orders'] != 1)} {row['cents']}"
        for row in found
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{Path(folder) / 'shop.db'}"
        async with EventBus("memory://", storage=storage, handlers=[RevenueByCountry]) as bus:
            async with bus.transaction() as tx:
                await tx.append("order-A", [order("A", "UK", 4200)], expected="absent")
                await tx.append("order-B", [order("B", "FR", 700)], expected="absent")
                await tx.append("order-C", [order("C", "UK", 100)], expected="absent")
            await bus.until_idle()
            print("rows:", await rows(bus))
            appended = await bus.events.append("order-D", [order("D", "UK", 1000)], expected="any")
            await bus.projections.wait("revenue", appended.position)
            print("my own write:", (await rows(bus)).partition(", ")[2])
            same = await assert_rebuild_equals_live(bus, "revenue")
            print(f"replayed from zero: {same} rows, all equal")
            shipped = OrderShipped(order_id="A", country="UK", cents=4200)
            await bus.events.append("order-A", [shipped], expected="any")
            await bus.until_idle()

        new = EventBus("memory://", storage=storage, handlers=[RevenueOfShipped])
        async with new.client():
            rebuilt = await new.projections.rebuild("revenue")
            found = rebuilt.difference
            print(f"the new code would change: {found.differ} of {found.differ + found.equal} rows")
            print("after the switch:", await rows(new))
            await new.projections.rollback("revenue")
            print("after the rollback:", await rows(new))


asyncio.run(main())
