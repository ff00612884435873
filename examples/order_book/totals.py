"""What the order book adds up to, and what it should."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Of a whole input; money in thousandths. `lines` are those that could be read."""

    lines: int
    invoices: int
    amount: int
    stock_codes: int
    countries: int
    cancellations: int  # invoices that start with C
    debts: int  # invoices that start with A
    without_customer: int  # lines, as the next three
    price_zero: int
    negative_without_c: int
    malformed: int = field(default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of the orders, and what the ledger says of it; money in thousandths."""

    orders: int = 0
    shipped: int = 0
    out_of_stock: int = 0
    declined: int = 0
    cancelled: int = 0
    undeliverable: int = 0
    pieces: int = 0  # that left in parcels
    sales: int = 0  # money, as the next three
    returns: int = 0
    bad_debts: int = 0
    corrections: int = 0


PUBLISHED = Totals(
    lines=541_909,
    invoices=25_900,
    amount=9_747_747_934,
    stock_codes=4_070,
    countries=38,
    cancellations=3_836,
    debts=3,
    without_customer=135_080,
    price_zero=2_515,
    negative_without_c=1_336,
)
"""Of "Online Retail": Chen, D. (2015), UCI Machine Learning Repository, doi 10.24432/C5BW33."""

FULFILLED = Outcomes(
    orders=20_817,
    shipped=20_278,
    out_of_stock=93,
    declined=360,
    cancelled=73,
    undeliverable=13,
    pieces=4_505_648,
    sales=8_008_128_914,
    returns=-593_663_960,
    bad_debts=-11_062_060,
    corrections=0,
)
"""Of the same file by the rules of the services: added up apart, by a program without a bus."""

PUBLISHED_SHA256 = "c35975c40d0e1e105090fbb11188a409393055f873841bd012915475fc84e69f"
