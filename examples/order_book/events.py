"""What an invoice says. One event is a run of neighbouring lines that belong together."""

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


class Invoice(Event):
    """All three kinds: what the groups subscribe to.

    Some invoices come in several parts: a part is named by the number of its first line in the
    file, so it has the same name whenever the file is read again.
    """

    invoice: str
    first_line: int
    issued_at: datetime
    customer: int | None
    country: str
    lines: tuple[Line, ...]


class InvoiceIssued(Invoice, type="retail.invoice-issued", key="invoice"):
    """Goods were sold, or stock was corrected under an invoice number."""


class InvoiceCancelled(Invoice, type="retail.invoice-cancelled", key="invoice"):
    """Goods came back: the number starts with C, quantities are negative."""


class DebtAdjusted(Invoice, type="retail.debt-adjusted", key="invoice"):
    """A bad debt was booked: the number starts with A."""


def kind_of(invoice: str) -> type[Invoice]:
    """The event of an invoice number."""
    return {"C": InvoiceCancelled, "A": DebtAdjusted}.get(invoice[:1], InvoiceIssued)
