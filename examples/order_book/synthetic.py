"""An order book made up from a seed, as messy as a real one, with totals of its own."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from examples.order_book.totals import Totals

COUNTRIES = ("United Kingdom",) * 18 + (
    "Germany",
    "France",
    "EIRE",
    "Spain",
    "Netherlands",
    "Belgium",
    "Channel Islands",
)
BROKEN = (
    "{number},only,four,columns",
    "{number},10001,SIX PENCE,six,2010-12-01 08:26:00,0.55,17850.0,France",
    "{number},10001,NO DAY,6,2010-12-32 08:26:00,0.55,17850.0,France",
    '{number},10001,"NEVER CLOSED,6,2010-12-01 08:26:00,0.55,17850.0,France',
    "{number},10001,TOO FINE,6,2010-12-01 08:26:00,0.0001,17850.0,France",
)


class Sums:
    """Adds up what was written, by decimals and sets: nothing of how the order book does it."""

    def __init__(self) -> None:
        self.amount = Decimal(0)
        self.invoices = set[str]()
        self.codes = set[str]()
        self.countries = set[str]()
        self.lines = self.guests = self.free = self.corrections = self.malformed = 0

    def add(self, invoice: str, code: str, count: int, price: str, who: str, land: str) -> None:
        """One good line."""
        self.lines += 1
        self.amount += count * Decimal(price)
        self.invoices.add(invoice)
        self.codes.add(code)
        self.countries.add(land)
        self.guests += who == ""
        self.free += Decimal(price) == 0
        self.corrections += count < 0 and not invoice.startswith("C")

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


def totals(seed: int, invoices: int) -> Totals:
    """What `lines` of the same arguments add up to."""
    sums = Sums()
    for _ in lines(seed, invoices, sums):
        pass
    return sums.totals()


def lines(seed: int, invoices: int, sums: Sums | None = None) -> Iterator[bytes]:
    """CSV lines without a header, the same for the same seed."""
    dice = random.Random(seed)
    sums = sums or Sums()
    at = datetime(2010, 12, 1, 8, 26)  # the shop's own clock
    for count in range(invoices):
        number = 536_365 + count
        at += timedelta(minutes=dice.choice((1, 3, 10, 30, 60)))
        yield from _invoice(dice, number, at, sums)
        if dice.random() < 0.01:
            sums.malformed += 1
            yield f"{dice.choice(BROKEN).format(number=number)}\n".encode()
        if dice.random() < 0.002:
            sums.malformed += 1
            yield b"%d,10001,CAF\xc9,6,2010-12-01 08:26:00,0.55,17850.0,France\n" % number


def _invoice(dice: random.Random, number: int, at: datetime, sums: Sums) -> Iterator[bytes]:
    letter = "C" if (kind := dice.random()) < 0.15 else "A" if kind < 0.151 else ""
    invoice = f"{letter}{number}"
    country = dice.choice(COUNTRIES)
    customer = "" if dice.random() < 0.25 else f"{dice.randrange(12_346, 18_288)}.0"
    for _ in range(1 if letter else dice.choice((1, 5, 12, 20, 28, 60))):
        code = f"{dice.randrange(20_000, 22_000)}{dice.choice(('', '', '', 'B'))}"
        quantity = dice.choice((1, 2, 6, 12, 24, 144))
        if letter == "C" or dice.random() < 0.003:
            quantity = -quantity
        price = dice.choice(("0.42", "0.85", "1.25", "1.65", "2.55", "4.95", "12.75", "0.001"))
        if letter == "A":
            price = "-11062.06"
        elif dice.random() < 0.005:
            price = "0.0"
        if dice.random() < 0.002:
            at += timedelta(minutes=1)  # a few invoices carry two times
        sums.add(invoice, code, quantity, price, customer, country)
        text = '"LANTERN, ""WHITE"""' if dice.random() < 0.02 else "WHITE METAL LANTERN"
        yield f"{invoice},{code},{text},{quantity},{at},{price},{customer},{country}\n".encode()
