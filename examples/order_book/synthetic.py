"""An order book made up from a seed, as messy as a real one, with totals of its own."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from examples.order_book.totals import Outcomes, Totals

COUNTRIES = ("United Kingdom",) * 18 + (
    "Germany",
    "France",
    "EIRE",
    "Spain",
    "Netherlands",
    "Belgium",
    "Channel Islands",
    "Unspecified",
)
BROKEN = (
    "{number},only,four,columns",
    "{number},10001,SIX PENCE,six,2010-12-01 08:26:00,0.55,17850.0,France",
    "{number},10001,NO DAY,6,2010-12-32 08:26:00,0.55,17850.0,France",
    '{number},10001,"NEVER CLOSED,6,2010-12-01 08:26:00,0.55,17850.0,France',
    "{number},10001,TOO FINE,6,2010-12-01 08:26:00,0.0001,17850.0,France",
)


@dataclass(slots=True)
class Part:
    """Neighbouring lines of one number and one time."""

    is_order: bool = True
    is_cancelled: bool = False
    guest: bool = False
    country: str = ""
    amount: Decimal = Decimal(0)
    pieces: Counter[str] = field(default_factory=Counter[str])

    def fate(self) -> str:
        """The rules of the services, written down a second time."""
        if max(self.pieces.values()) > 1000:
            return "out_of_stock"
        if self.amount > (2000 if self.guest else 5000):
            return "declined"
        if self.is_cancelled:
            return "cancelled"
        return "undeliverable" if self.country == "Unspecified" else "shipped"


class Sums:
    """Adds up what was written, by decimals and sets: nothing of how the order book does it."""

    def __init__(self) -> None:
        self.amount = Decimal(0)
        self.invoices = set[str]()
        self.codes = set[str]()
        self.countries = set[str]()
        self.parts: dict[tuple[str, datetime], Part] = {}
        self.lines = self.guests = self.free = self.corrections = self.malformed = 0

    def add(self, line: "Row") -> None:
        """One good line."""
        self.lines += 1
        worth = line.quantity * Decimal(line.price)
        self.amount += worth
        self.invoices.add(line.invoice)
        self.codes.add(line.code)
        self.countries.add(line.country)
        self.guests += line.customer == ""
        self.free += Decimal(line.price) == 0
        self.corrections += line.quantity < 0 and not line.invoice.startswith("C")
        part = self.parts.setdefault((line.invoice, line.at), Part())
        part.is_order &= line.invoice.isdecimal() and line.quantity > 0
        part.is_cancelled |= line.is_cancelled
        part.guest, part.country = line.customer == "", line.country
        part.amount += worth
        part.pieces[line.code] += line.quantity

    def totals(self) -> Totals:
        """Of all lines so far."""
        return Totals(
            lines=self.lines,
            invoices=len(self.invoices),
            amount=int(self.amount * 1000),
            stock_codes=len(self.codes),
            countries=len(self.countries),
            cancellations=sum(number.startswith("C") for number in self.invoices),
            debts=sum(number.startswith("A") for number in self.invoices),
            without_customer=self.guests,
            price_zero=self.free,
            negative_without_c=self.corrections,
            malformed=self.malformed,
        )

    def outcomes(self) -> Outcomes:
        """What must become of them."""
        fates = Counter(part.fate() for part in self.parts.values() if part.is_order)
        shipped = [one for one in self.parts.values() if one.is_order and one.fate() == "shipped"]
        notes = {"C": Decimal(0), "A": Decimal(0), "": Decimal(0)}
        for (invoice, _), part in self.parts.items():
            if not part.is_order and not part.is_cancelled:
                notes[invoice[0] if invoice[0] in notes else ""] += part.amount
        return Outcomes(
            orders=fates.total(),
            **fates,
            pieces=sum(one.pieces.total() for one in shipped),
            sales=int(sum(one.amount for one in shipped) * 1000),
            returns=int(notes["C"] * 1000),
            bad_debts=int(notes["A"] * 1000),
            corrections=int(notes[""] * 1000),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A line, and whether it belongs to an order that is cancelled, or to what cancels it."""

    invoice: str
    code: str
    text: str
    quantity: int
    at: datetime
    price: str
    customer: str
    country: str
    is_cancelled: bool = False

    def __bytes__(self) -> bytes:
        """As it stands in the file."""
        return (
            f"{self.invoice},{self.code},{self.text},{self.quantity},{self.at},{self.price},"
            f"{self.customer},{self.country}\n".encode()
        )


def sums(seed: int, invoices: int) -> Sums:
    """What `lines` of the same arguments add up to."""
    found = Sums()
    for _ in lines(seed, invoices, found):
        pass
    return found


def lines(seed: int, invoices: int, sums: Sums | None = None) -> Iterator[bytes]:
    """CSV lines without a header, the same for the same seed."""
    dice = random.Random(seed)
    sums = sums or Sums()
    at = datetime(2010, 12, 1, 8, 26)  # the shop's own clock
    for count in range(invoices):
        number = 536_365 + count
        at += timedelta(minutes=dice.choice((1, 3, 10, 30, 60)))
        for row in _invoice(dice, number, at):
            sums.add(row)
            yield bytes(row)
        if dice.random() < 0.01:
            sums.malformed += 1
            yield f"{dice.choice(BROKEN).format(number=number)}\n".encode()
        if dice.random() < 0.002:
            sums.malformed += 1
            yield b"%d,10001,CAF\xc9,6,2010-12-01 08:26:00,0.55,17850.0,France\n" % number


def _invoice(dice: random.Random, number: int, at: datetime) -> Iterator[Row]:
    kind = dice.random()
    customer = "" if dice.random() < 0.25 else f"{dice.randrange(12_346, 18_288)}.0"
    country = dice.choice(COUNTRIES)
    if kind < 0.12:
        yield from _part(dice, f"C{number}", at, customer, country, lines=1, sign=-1)
    elif kind < 0.121:
        yield Row(f"A{number}", "B", "Adjust bad debt", 1, at, "-11062.06", customer, country)
    elif kind < 0.17:
        yield from _part(dice, f"{number}", at, "", country, lines=1, sign=-1)
    elif kind < 0.20 and at.date() == (at + timedelta(minutes=1)).date():
        yield from _cancelled(dice, number, at, customer, country)
    else:
        size = dice.choice((1, 5, 12, 20, 28, 60))
        yield from _part(dice, f"{number}", at, customer, country, lines=size, sign=1)


def _part(
    dice: random.Random,
    invoice: str,
    at: datetime,
    customer: str,
    country: str,
    *,
    lines: int,
    sign: int,
) -> Iterator[Row]:
    for _ in range(lines):
        code = f"{dice.randrange(20_000, 22_000)}{dice.choice(('', '', '', 'B'))}"
        quantity = sign * dice.choice((1, 2, 6, 12, 24, 48))
        if dice.random() < 0.002:
            quantity *= 1_200  # more than a shelf holds
        price = dice.choice(("0.42", "0.85", "1.25", "1.65", "2.55", "4.95", "12.75", "0.001"))
        if dice.random() < 0.005:
            price = "0.0"
        if dice.random() < 0.002:
            at += timedelta(seconds=10)  # a few invoices carry two times
        text = '"LANTERN, ""WHITE"""' if dice.random() < 0.02 else "WHITE METAL LANTERN"
        yield Row(invoice, code, text, quantity, at, price, customer, country)


def _cancelled(
    dice: random.Random, number: int, at: datetime, customer: str, country: str
) -> Iterator[Row]:
    """An order, and a minute later the credit note that takes all of it back."""
    order = list(_part(dice, f"{number}", at, customer, country, lines=3, sign=1))
    for row in order:
        yield replace(row, at=at, is_cancelled=True)
    for row in order:
        yield replace(
            row,
            invoice=f"C{number}",
            quantity=-row.quantity,
            at=at + timedelta(minutes=1),
            is_cancelled=True,
        )
