"""The table at the end, and whether the sums are the known ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eventbus import EventBus
from eventbus.sourcing import Filter
from examples.order_book.events import Invoice
from examples.order_book.sources import Source
from examples.order_book.totals import Totals

LABELS = {
    "lines": "lines read",
    "invoices": "invoices",
    "amount": "quantity x price",
    "stock_codes": "stock codes",
    "countries": "countries",
    "cancellations": "invoices that are cancellations (C…)",
    "debts": "invoices that adjust bad debt (A…)",
    "without_customer": "lines without a customer",
    "price_zero": "lines with price 0",
    "negative_without_c": "lines with a negative quantity, not cancelled",
    "malformed": "lines malformed",
}
Rows = Sequence[Mapping[str, Any]]


async def report(bus: EventBus, source: Source, *, whole: bool) -> tuple[str, bool]:
    """The text, and whether everything that can be compared is equal."""
    async with bus.transaction() as tx:
        countries = await tx.sql.fetch(
            "SELECT country AS name, sum(amount) AS amount FROM revenue"
            " GROUP BY country ORDER BY 2 DESC, 1"
        )
        months = await tx.sql.fetch(
            "SELECT month AS name, sum(amount) AS amount FROM revenue GROUP BY month ORDER BY 1"
        )
        stock = await tx.sql.fetch(
            "SELECT count(*) AS codes, coalesce(sum(lines), 0) AS lines,"
            " coalesce(sum(amount), 0) AS amount FROM stock"
        )
        letters = await tx.sql.fetch(
            "SELECT substr(invoice, 1, 1) AS letter, count(*) AS invoices FROM invoices GROUP BY 1"
        )
        tallies = await tx.sql.fetch("SELECT rule, lines FROM tallies")
        reading = await tx.sql.fetch(
            "SELECT lines, (SELECT count(*) FROM malformed) AS malformed FROM reading"
        )
    by_rule = {row["rule"]: row["lines"] for row in tallies}
    by_letter = {row["letter"]: row["invoices"] for row in letters}
    totals = Totals(
        lines=by_rule.get("all", 0),
        invoices=sum(by_letter.values()),
        amount=sum(row["amount"] for row in months),
        stock_codes=stock[0]["codes"],
        countries=len(countries),
        cancellations=by_letter.get("C", 0),
        debts=by_letter.get("A", 0),
        without_customer=by_rule.get("without customer", 0),
        price_zero=by_rule.get("price 0", 0),
        negative_without_c=by_rule.get("negative without C", 0),
        malformed=reading[0]["malformed"],
    )
    agree = (
        reading[0]["lines"] == totals.lines == stock[0]["lines"]
        and totals.amount == stock[0]["amount"]
    )
    recorded = await _recorded(bus)
    verdicts = [
        ("reader, billing and stock agree", agree),
        (
            f"the {recorded.events:,} events of {recorded.orders:,} orders agree",
            (recorded.orders, recorded.lines, recorded.amount)
            == (totals.invoices, totals.lines, totals.amount),
        ),
    ]
    if whole and source.known is not None:
        verdicts.append((f"equals {source.known_by}", totals == source.known))
    text = "\n".join(
        [
            *_table("revenue of the first ten countries", countries[:10]),
            *_table("revenue by month", months),
            *_sums(totals, source.known if whole else None),
            *(f"{what}: {'yes' if holds else 'NO'}" for what, holds in verdicts),
        ]
    )
    return text, all(holds for _, holds in verdicts)


@dataclass(slots=True)
class Recorded:
    """What the log adds up to; money in thousandths."""

    events: int = 0
    orders: int = 0
    lines: int = 0
    amount: int = 0


async def _recorded(bus: EventBus) -> Recorded:
    """The log from its start, in constant memory: the truth that the read models came from."""
    found = Recorded()
    async for one in bus.events.search(only=Filter(category="order")):
        part = one.event
        assert isinstance(part, Invoice)  # noqa: S101 - orders hold nothing else
        found.events += 1
        found.orders += one.recorded.version == 1
        found.lines += len(part.lines)
        found.amount += sum(line.amount for line in part.lines)
    return found


def money(amount: int) -> str:
    """Thousandths as people write them: 9,747,747.934."""
    whole, rest = divmod(abs(amount), 1000)
    return f"{'-' if amount < 0 else ''}{whole:,}.{rest:03d}"


def _table(title: str, rows: Rows) -> Iterator[str]:
    yield title
    for row in rows:
        yield f"  {row['name']:<24}{money(row['amount']):>20}"
    yield ""


def _sums(totals: Totals, known: Totals | None) -> Iterator[str]:
    yield "totals"
    expected = asdict(known) if known else {}
    for name, value in asdict(totals).items():
        shown = money if name == "amount" else "{:,}".format
        wrong = name in expected and expected[name] != value
        remark = f"   should be {shown(expected[name])}" if wrong else ""
        yield f"  {LABELS[name]:<48}{shown(value):>16}{remark}"
    yield ""
