"""An order is the stream of its parts: an aggregate, which takes each part of the file once."""

from eventbus import UnitOfWork
from eventbus.sourcing import Aggregate, applies
from examples.order_book.events import Invoice


class Order(Aggregate, stream="order"):
    """What the file says of one invoice number, in as many parts as it comes in."""

    parts: frozenset[int] = frozenset()  # the first line of each
    lines: int = 0
    amount: int = 0  # thousandths

    def take(self, part: Invoice) -> None:
        """A part that is known already is passed over."""
        if part.first_line not in self.parts:
            self.emit(part)

    @applies(Invoice)
    def _taken(self, part: Invoice) -> None:
        self.parts |= {part.first_line}
        self.lines += len(part.lines)
        self.amount += sum(line.amount for line in part.lines)


async def record(parts: list[Invoice], tx: UnitOfWork) -> None:
    """Each part into the stream of its order, and out to the groups under the same id."""
    orders: dict[str, Order] = {}
    for part in parts:
        if part.invoice not in orders:
            orders[part.invoice] = await Order.load(part.invoice, tx)
        orders[part.invoice].take(part)
    for order in orders.values():
        await order.save(tx)
