"""Revenue, stock, customers, invoices: rows made of the log, which can be made again from it.

`eventbus projection rebuild revenue examples.order_book.app:bus` makes one anew beside the one
that serves, while orders keep coming in, and says which rows would change.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from eventbus.sourcing import FoldingProjection, ReadModel, projects
from examples.order_book.events import (
    EVERY_KIND,
    CreditNoteIssued,
    Invoice,
    OrderPlaced,
    StockCorrected,
)
from examples.order_book.shipping import ParcelLeft

F = TypeVar("F")
GUEST = 0  # the customer number of those who have none


def every_invoice(
    *,
    key: Callable[[Any], object] | None = None,
    keys: Callable[[Any], Iterable[object]] | None = None,
) -> Callable[[F], F]:
    """`@projects` for each of the four kinds."""

    def mark(method: Any) -> Any:
        for kind in EVERY_KIND:
            how: Any = {"key": key} if keys is None else {"keys": keys}
            method = projects(kind, **how)(method)
        return method

    return mark


class Revenue(ReadModel, table="revenue", key=("country", "month")):
    """What was invoiced, and what of it left in parcels; thousandths."""

    country: str
    month: str
    amount: int = 0
    shipped: int = 0


class RevenueByMonth(FoldingProjection[Revenue], name="revenue"):
    """One row for a country and a month."""

    @every_invoice(key=lambda event: (event.sale.country, event.sale.month))
    def invoiced(self, row: Revenue, event: Invoice) -> Revenue:
        """Credit notes count against it: their amounts are below 0."""
        return row.model_copy(update={"amount": row.amount + event.sale.amount})

    @projects(ParcelLeft, key=lambda event: (event.sale.country, event.sale.month))
    def shipped(self, row: Revenue, event: ParcelLeft) -> Revenue:
        """In the month of the order."""
        return row.model_copy(update={"shipped": row.shipped + event.sale.amount})


class Stock(ReadModel, table="stock", key="stock_code"):
    """What became of a product; pieces, and thousandths."""

    stock_code: str
    lines: int = 0
    amount: int = 0
    ordered: int = 0
    came_back: int = 0
    corrected: int = 0
    shipped: int = 0


def codes(event: Any) -> Iterable[str]:
    """The products of an event: it concerns the row of each of them."""
    return (line.stock_code for line in event.sale.lines)


class StockByProduct(FoldingProjection[Stock], name="stock"):
    """One row for a product; one event concerns many of them."""

    @every_invoice(keys=codes)
    def invoiced(self, row: Stock, event: Invoice) -> Stock:
        """All lines of this product."""
        lines = [line for line in event.sale.lines if line.stock_code == row.stock_code]
        pieces = sum(line.quantity for line in lines)
        return row.model_copy(
            update={
                "lines": row.lines + len(lines),
                "amount": row.amount + sum(line.amount for line in lines),
                "ordered": row.ordered + pieces * isinstance(event, OrderPlaced),
                "came_back": row.came_back - pieces * isinstance(event, CreditNoteIssued),
                "corrected": row.corrected + pieces * isinstance(event, StockCorrected),
            }
        )

    @projects(ParcelLeft, keys=codes)
    def shipped(self, row: Stock, event: ParcelLeft) -> Stock:
        """What really left."""
        pieces = sum(
            line.quantity for line in event.sale.lines if line.stock_code == row.stock_code
        )
        return row.model_copy(update={"shipped": row.shipped + pieces})


class Customer(ReadModel, table="customers", key="customer"):
    """What somebody ordered, got and sent back; thousandths."""

    customer: int
    orders: int = 0
    parcels: int = 0
    amount: int = 0
    shipped: int = 0
    credited: int = 0


def customer(event: Any) -> int:
    """Guests share a row."""
    return GUEST if event.sale.customer is None else event.sale.customer


class Customers(FoldingProjection[Customer], name="customers"):
    """One row for a customer."""

    @every_invoice(key=customer)
    def invoiced(self, row: Customer, event: Invoice) -> Customer:
        """Orders, and credit notes against them."""
        amount = event.sale.amount
        return row.model_copy(
            update={
                "orders": row.orders + isinstance(event, OrderPlaced),
                "amount": row.amount + amount,
                "credited": row.credited - amount * isinstance(event, CreditNoteIssued),
            }
        )

    @projects(ParcelLeft, key=customer)
    def shipped(self, row: Customer, event: ParcelLeft) -> Customer:
        """What was paid for."""
        return row.model_copy(
            update={
                "parcels": row.parcels + 1,
                "shipped": row.shipped + event.sale.amount,
            }
        )


class InvoiceRow(ReadModel, table="invoices", key="invoice"):
    """How many lines of a number fall under each rule; a line may fall under several."""

    invoice: str
    lines: int = 0
    without_customer: int = 0
    price_zero: int = 0
    negative_without_c: int = 0


class Invoices(FoldingProjection[InvoiceRow], name="invoices"):
    """One row for an invoice number, in as many parts as it comes in."""

    @every_invoice(key=lambda event: event.invoice)
    def invoiced(self, row: InvoiceRow, event: Invoice) -> InvoiceRow:
        """Counts its lines."""
        lines = event.sale.lines
        guests = len(lines) if event.sale.customer is None else 0
        corrected = 0
        if not isinstance(event, CreditNoteIssued):
            corrected = sum(line.quantity < 0 for line in lines)
        return row.model_copy(
            update={
                "lines": row.lines + len(lines),
                "without_customer": row.without_customer + guests,
                "price_zero": row.price_zero + sum(line.price == 0 for line in lines),
                "negative_without_c": row.negative_without_c + corrected,
            }
        )


NAMES = ("revenue", "stock", "customers", "invoices")
