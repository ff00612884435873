"""What the file says, as facts. One event is a run of neighbouring lines that belong together."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel

from eventbus import Event


class Line(BaseModel):
    """One product on an invoice; money is counted in thousandths, never in floats."""

    stock_code: str
    quantity: int
    price: int

    @property
    def amount(self) -> int:
        """Quantity times price, in thousandths."""
        return self.quantity * self.price


class Sale(BaseModel):
    """Who ordered what: all that stock, billing and shipping need to know of an order."""

    issued_at: datetime
    customer: int | None
    country: str
    lines: tuple[Line, ...]

    @property
    def amount(self) -> int:
        """What all lines cost together, in thousandths."""
        return sum(line.amount for line in self.lines)

    @property
    def month(self) -> str:
        """Like 2011-12."""
        return f"{self.issued_at:%Y-%m}"


class Invoice(Event):
    """All four kinds of them.

    A few invoice numbers come in several parts. Each part is an order of its own: it is named by
    the number of its first line in the file, so it has the same name whenever the file is read.
    """

    order_id: str
    invoice: str
    sale: Sale


class OrderPlaced(Invoice, type="retail.order-placed", key="order_id"):
    """Goods were ordered."""


class CreditNoteIssued(Invoice, type="retail.credit-note-issued", key="order_id"):
    """Goods came back, or an order was cancelled: the number starts with C, quantities are below 0.

    `cancels` is the order that was cancelled with it before anything was shipped.
    """

    cancels: str | None = None


class StockCorrected(Invoice, type="retail.stock-corrected", key="order_id"):
    """Somebody counted: quantities below 0 under a number without C."""


class DebtAdjusted(Invoice, type="retail.debt-adjusted", key="order_id"):
    """A bad debt was booked: the number starts with A."""


class OrderCancelled(Event, type="retail.order-cancelled", key="order_id"):
    """The customer wants nothing of it any more: on the same day, all of it."""

    order_id: str


class OrderReleased(Event, type="retail.order-released", key="order_id"):
    """The day of the order is over: it can be packed, and is not cancelled any more."""

    order_id: str


EVERY_KIND: tuple[type[Invoice], ...] = (
    OrderPlaced,
    CreditNoteIssued,
    StockCorrected,
    DebtAdjusted,
)


def kind_of(invoice: str, lines: Sequence[Line]) -> type[Invoice]:
    """The event of an invoice number and its lines."""
    if invoice.startswith("C"):
        return CreditNoteIssued
    if invoice.startswith("A"):
        return DebtAdjusted
    return StockCorrected if any(line.quantity < 0 for line in lines) else OrderPlaced
