"""From bytes to invoices, one line at a time: what cannot be read is named, counted, passed over.

The rules. A record is one line of eight columns in UTF-8. Lines of one invoice that follow each
other and agree in time, customer and country are one part. Each of these is an ordinary line, and
counted: a cancellation (C…), a bad debt (A…), one without a customer, with price 0, or with a
negative quantity though it is no cancellation. Anything else is malformed.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NamedTuple

from examples.order_book.events import Invoice, Line, Sale, kind_of

COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
LONGEST_LINE_BYTES = 64 << 10
MOST_LINES = 500  # of a part
_INVOICE = re.compile(r"[CA]?[0-9]{1,12}")
_QUANTITY = re.compile(r"-?[0-9]{1,7}")
_PRICE = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,6})?")
_CUSTOMER = re.compile(r"([0-9]{1,9})(?:\.0)?")


class MalformedError(ValueError):
    """A line that cannot be read, and why."""


class Row(NamedTuple):
    """A line that could be read."""

    invoice: str
    issued_at: datetime
    customer: int | None
    country: str
    line: Line


@dataclass(slots=True)
class Chunk:
    """What goes into one transaction: everything up to, and including, line `upto`."""

    upto: int = 0
    invoices: list[Invoice] = field(default_factory=list)
    malformed: list[tuple[int, str]] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """That could be read."""
        return sum(len(invoice.sale.lines) for invoice in self.invoices)


def chunks(lines: Iterable[bytes], *, after: int, size: int = 200) -> Iterator[Chunk]:
    """Chunks of about `size` invoices, from the line behind `after` on; the header is line 0.

    Each ends where an invoice ends, so reading can go on behind any of them.
    """
    chunk, part, first = Chunk(), list[Row](), 0
    for number, raw in enumerate(lines, after + 1):
        try:
            row = parsed(raw)
        except MalformedError as error:
            chunk.malformed.append((number, str(error)))
            continue
        if part and (row[:4] != part[0][:4] or len(part) == MOST_LINES):
            chunk.invoices.append(_invoice(part, first))
            part.clear()
            if len(chunk.invoices) + len(chunk.malformed) >= size:
                chunk.upto = number - 1
                yield chunk
                chunk = Chunk()
        if not part:
            first = number
        part.append(row)
        chunk.upto = number
    if part:
        chunk.invoices.append(_invoice(part, first))
    if chunk.invoices or chunk.malformed:
        chunk.upto = max([chunk.upto, *(number for number, _ in chunk.malformed)])
        yield chunk


def _invoice(part: list[Row], first: int) -> Invoice:
    head, lines = part[0], tuple(row.line for row in part)
    return kind_of(head.invoice, lines)(
        order_id=f"{head.invoice}.{first}",
        invoice=head.invoice,
        sale=Sale(
            issued_at=head.issued_at, customer=head.customer, country=head.country, lines=lines
        ),
    )


def parsed(raw: bytes) -> Row:
    """One line.

    Raises:
        MalformedError: it is none of ours; the text says why.
    """
    fields = _fields(raw)
    if len(fields) != len(COLUMNS):
        raise MalformedError(f"{len(fields)} columns, not {len(COLUMNS)}")
    invoice, stock_code, _, quantity, issued_at, price, customer, country = fields
    if not _INVOICE.fullmatch(invoice):
        raise MalformedError(f"InvoiceNo {_shown(invoice)} is no number")
    if not _QUANTITY.fullmatch(quantity):
        raise MalformedError(f"Quantity {_shown(quantity)} is no whole number")
    if not stock_code or not country:
        raise MalformedError("StockCode or Country is empty")
    line = Line(stock_code=stock_code, quantity=int(quantity), price=thousandths(price))
    return Row(invoice, moment(issued_at), _customer(customer), country, line)


def _fields(raw: bytes) -> list[str]:
    if len(raw) >= LONGEST_LINE_BYTES:
        raise MalformedError(f"longer than {LONGEST_LINE_BYTES:,} bytes")
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 at byte {error.start}") from None
    if "\0" in text:
        raise MalformedError("a NUL character")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise MalformedError(f"not CSV: {error}") from None


@lru_cache(maxsize=10_000)
def thousandths(text: str) -> int:
    """An exact decimal as a whole number of thousandths.

    Raises:
        MalformedError: it is no number, or finer than a thousandth.
    """
    if not _PRICE.fullmatch(text):
        raise MalformedError(f"UnitPrice {_shown(text)} is no number")
    try:
        scaled = Decimal(text) * 1000
    except InvalidOperation:
        raise MalformedError(f"UnitPrice {_shown(text)} is no number") from None
    if scaled != scaled.to_integral_value():
        raise MalformedError(f"UnitPrice {_shown(text)} is finer than a thousandth")
    return int(scaled)


@lru_cache(maxsize=1_000)
def moment(text: str) -> datetime:
    """A time like 2010-12-01 08:26:00.

    Raises:
        MalformedError: it is none.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")  # the shop's own clock
    except ValueError:
        raise MalformedError(f"InvoiceDate {_shown(text)} is no time") from None


def _customer(text: str) -> int | None:
    if not text:
        return None
    match = _CUSTOMER.fullmatch(text)
    if match is None:
        raise MalformedError(f"CustomerID {_shown(text)} is no number")
    return int(match[1])


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
