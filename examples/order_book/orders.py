"""The orders service: each part of the file into the stream of its order, and the book of the day.

A credit note that takes back all of an order of the same day cancels it. When a line of the next
day is read, or the file ends, the day is over: what is left of its orders is released.
"""

import hashlib
from dataclasses import dataclass, field

from eventbus import UnitOfWork
from eventbus.sourcing import Aggregate, applies
from examples.order_book.events import (
    CreditNoteIssued,
    Invoice,
    OrderCancelled,
    OrderPlaced,
    OrderReleased,
)

TABLES = (
    "CREATE TABLE IF NOT EXISTS open_orders (order_id text PRIMARY KEY, day text NOT NULL,"
    " goods text NOT NULL)",
)


class Order(Aggregate, stream="order"):
    """What the file says of one part of an invoice, and what became of it."""

    order_id: str = ""  # none: nothing was said yet
    is_cancelled: bool = False

    def place(self, part: Invoice) -> None:
        """A part that is known already is passed over."""
        if not self.order_id:
            self.emit(part)

    def cancel(self) -> None:
        """All of it; a second time says nothing new."""
        if self.order_id and not self.is_cancelled:
            self.emit(OrderCancelled(order_id=self.order_id))

    @applies(Invoice)
    def _placed(self, part: Invoice) -> None:
        self.order_id = part.order_id

    @applies(OrderCancelled)
    def _cancelled(self, event: OrderCancelled) -> None:
        self.is_cancelled = True


@dataclass(slots=True)
class DayBook:
    """The orders of the day that can still be cancelled, with what they are about."""

    day: str = ""
    goods: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    async def load(cls, tx: UnitOfWork) -> "DayBook":
        """As the transaction before left it."""
        rows = await tx.sql.fetch("SELECT order_id, day, goods FROM open_orders ORDER BY order_id")
        book = cls(goods={row["order_id"]: row["goods"] for row in rows})
        book.day = max((row["day"] for row in rows), default="")
        return book

    def close(self) -> list[str]:
        """The day is over: its orders."""
        orders = list(self.goods)
        self.goods.clear()
        return orders

    def take_back(self, note: Invoice) -> str | None:
        """The order of the day that a credit note takes back as a whole, if there is one."""
        wanted = goods_of(note, sign=-1)
        found = next((order for order, goods in self.goods.items() if goods == wanted), None)
        if found is not None:
            del self.goods[found]
        return found

    async def save(self, tx: UnitOfWork) -> None:
        """All of it: a day is a few hundred orders."""
        await tx.sql.execute("DELETE FROM open_orders")
        await tx.sql.execute_many(
            "INSERT INTO open_orders (order_id, day, goods) VALUES ($1, $2, $3)",
            [(order, self.day, goods) for order, goods in self.goods.items()],
        )


async def record(parts: list[Invoice], tx: UnitOfWork) -> int:
    """Everything that these parts say, in their order; how many orders were placed."""
    book, placed = await DayBook.load(tx), 0
    for part in parts:
        day = f"{part.sale.issued_at:%Y-%m-%d}"
        if day > book.day:
            await _release(book, tx)
            book.day = day
        if isinstance(part, CreditNoteIssued):
            cancelled = book.take_back(part)
            await _place(part.model_copy(update={"cancels": cancelled}), tx)
            if cancelled is not None:
                await _cancel(cancelled, tx)
        else:
            await _place(part, tx)
        if isinstance(part, OrderPlaced):
            book.goods[part.order_id] = goods_of(part)
            placed += 1
    await book.save(tx)
    return placed


async def close_the_book(tx: UnitOfWork) -> None:
    """The file has ended, and with it its last day."""
    book = await DayBook.load(tx)
    await _release(book, tx)
    await book.save(tx)


async def _place(part: Invoice, tx: UnitOfWork) -> None:
    order = await Order.load(part.order_id, tx)
    order.place(part)
    await order.save(tx)


async def _cancel(order_id: str, tx: UnitOfWork) -> None:
    order = await Order.load(order_id, tx)
    order.cancel()
    await order.save(tx)


async def _release(book: DayBook, tx: UnitOfWork) -> None:
    for order_id in book.close():
        await tx.publish(OrderReleased(order_id=order_id))


def goods_of(invoice: Invoice, *, sign: int = 1) -> str:
    """Whose, and which goods at which prices: equal for an order and what takes all of it back."""
    sale = invoice.sale
    lines = sorted((line.stock_code, sign * line.quantity, line.price) for line in sale.lines)
    return hashlib.sha256(repr((sale.customer, sale.country, lines)).encode()).hexdigest()
