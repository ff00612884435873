"""Events and rows that the tests of this room project."""

from eventbus import Event
from eventbus.sourcing import FoldingProjection, ReadModel, projects


class Placed(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    country: str
    cents: int


class Withdrawn(Event, type="shop.order-withdrawn", key="order_id"):
    order_id: str
    country: str


class Revenue(ReadModel, table="revenue", key="country"):
    country: str
    orders: int = 0
    cents: int = 0


class Revenues(FoldingProjection[Revenue], name="revenue"):
    @projects(Placed, key=lambda event: event.country)
    def placed(self, row: Revenue, event: Placed) -> Revenue:
        if event.cents < 0:
            raise ValueError("an order that costs less than nothing")
        return row.model_copy(update={"orders": row.orders + 1, "cents": row.cents + event.cents})

    @projects(Withdrawn, key=lambda event: event.country)
    def withdrawn(self, row: Revenue, event: Withdrawn) -> Revenue | None:
        return None


def placed(country: str, cents: int, order_id: str = "A-1") -> Placed:
    return Placed(order_id=order_id, country=country, cents=cents)
