"""What must have become of each order: the rules of the services, applied to the log."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from eventbus import EventBus
from eventbus.sourcing import Filter
from examples.order_book.billing import is_declined
from examples.order_book.events import Invoice, OrderCancelled, OrderPlaced, Sale
from examples.order_book.shipping import ParcelLeft, is_nowhere
from examples.order_book.stock import out_of_stock

Fate = Literal["shipped", "out of stock", "card declined", "cancelled", "undeliverable"]


@dataclass(slots=True)
class Recorded:
    """What the log adds up to; money in thousandths."""

    events: int = 0
    parts: int = 0
    lines: int = 0
    amount: int = 0
    fates: dict[str, Fate] = field(default_factory=dict[str, Fate])  # of each order
    worth: dict[str, int] = field(default_factory=dict[str, int])  # of each order
    parcels: set[str] = field(default_factory=set[str])

    def orders(self) -> Counter[Fate]:
        """How many have each fate."""
        return Counter(self.fates.values())

    def amounts(self) -> Counter[Fate]:
        """What they are worth together."""
        found = Counter[Fate]()
        for order_id, fate in self.fates.items():
            found[fate] += self.worth[order_id]
        return found


async def recorded(bus: EventBus) -> Recorded:
    """The log from its start: the truth that the read models came from."""
    found = Recorded()
    async for one in bus.events.search(only=Filter(category="order")):
        found.events += 1
        match one.event:
            case Invoice() as part:
                found.parts += 1
                found.lines += len(part.sale.lines)
                found.amount += part.sale.amount
                if isinstance(part, OrderPlaced):
                    found.fates[part.order_id] = fate_of(part.sale)
                    found.worth[part.order_id] = part.sale.amount
            case OrderCancelled(order_id=order_id):
                if found.fates[order_id] in {"shipped", "undeliverable"}:
                    found.fates[order_id] = "cancelled"
            case ParcelLeft(order_id=order_id):
                found.parcels.add(order_id)
            case other:
                raise AssertionError(f"orders do not hold {other!r}")
    return found


def fate_of(sale: Sale) -> Fate:
    """Of an order that nobody cancels, in the order in which its saga asks."""
    if out_of_stock(sale.lines) is not None:
        return "out of stock"
    if is_declined(sale.customer, sale.amount):
        return "card declined"
    return "undeliverable" if is_nowhere(sale.country) else "shipped"
