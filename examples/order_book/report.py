"""The tables at the end, and whether everything that can be compared is equal."""

from collections.abc import Iterator
from dataclasses import asdict

from examples.order_book.figures import Figures, Rows
from examples.order_book.outcomes import Fate, Recorded
from examples.order_book.sources import Source

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
FATES: tuple[Fate, ...] = (
    "shipped",
    "out of stock",
    "card declined",
    "cancelled",
    "undeliverable",
)


def report(found: Figures, source: Source, *, whole: bool) -> tuple[str, bool]:
    """The text, and whether everything agrees."""
    known = source.known if whole else None
    verdicts = list(_verdicts(found))
    if known is not None:
        equal = (found.totals, found.outcomes) == known
        verdicts.append((f"equals {source.known_by}", equal))
    lines = [
        *_revenue("revenue of the first ten countries", found.countries[:10]),
        *_revenue("revenue by month", found.months),
        *_orders(found.recorded),
        *_ledger(found),
        *_totals(found, None if known is None else asdict(known[0])),
        *(f"{what}: {'yes' if holds else 'NO'}" for what, holds in verdicts),
    ]
    if known is not None and found.outcomes != known[1]:
        lines.append(f"  {found.outcomes}\n  should be {known[1]}")
    return "\n".join(lines), all(holds for _, holds in verdicts)


def _verdicts(found: Figures) -> Iterator[tuple[str, bool]]:
    log, outcomes = found.recorded, found.outcomes
    yield "log, reader and four read models agree", len(set(found.sums.values())) == 1
    ends = {order: _status(fate, order in found.waiting) for order, fate in log.fates.items()}
    yield f"each of {len(log.fates):,} orders ended as the rules say", ends == found.statuses
    shipped = {order for order, status in ends.items() if status == "completed"}
    yield (
        "what is reserved is what was shipped",
        log.parcels == shipped
        and len(shipped) == outcomes.shipped
        and (bool(found.waiting) or found.reserved == outcomes.pieces),
    )
    yield "the ledger balances", not found.unbalanced and sum(found.balances.values()) == 0
    yield "each sale is a parcel", outcomes.sales == sum(log.worth[one] for one in shipped)
    held = sum(log.worth[one] for one in found.waiting if log.fates[one] in PAID)
    yield "nothing is held that is not owed", -found.balances["held"] == held


PAID = frozenset({"shipped", "undeliverable"})  # fates of which the card was charged


def _status(fate: Fate, is_waiting: bool) -> str:
    if is_waiting and fate in PAID:
        return "running"
    return "completed" if fate == "shipped" else "compensated"


def money(amount: int) -> str:
    """Thousandths as people write them: 9,747,747.934."""
    whole, rest = divmod(abs(amount), 1000)
    return f"{'-' if amount < 0 else ''}{whole:,}.{rest:03d}"


def _revenue(title: str, rows: Rows) -> Iterator[str]:
    yield f"{title:<26}{'invoiced':>20}{'shipped':>20}"
    for row in rows:
        yield (
            f"  {row['name']:<24}{money(int(row['amount'])):>20}{money(int(row['shipped'])):>20}"
        )
    yield ""


def _orders(log: Recorded) -> Iterator[str]:
    """From what was ordered to what was shipped."""
    orders, amounts = log.orders(), log.amounts()
    yield f"{'orders, each a saga':<26}{'orders':>20}{'amount':>20}"
    for fate in FATES:
        yield f"  {fate:<24}{orders[fate]:>20,}{money(amounts[fate]):>20}"
    yield f"  {'ordered':<24}{orders.total():>20,}{money(amounts.total()):>20}"
    yield ""


def _ledger(found: Figures) -> Iterator[str]:
    yield "ledger"
    for account, balance in found.balances.items():
        yield f"  {account:<44}{money(balance):>20}"
    yield f"  {'all accounts together':<44}{money(sum(found.balances.values())):>20}"
    yield ""


def _totals(found: Figures, known: dict[str, int] | None) -> Iterator[str]:
    yield "totals"
    expected = known or {}
    for name, value in asdict(found.totals).items():
        shown = money if name == "amount" else "{:,}".format
        wrong = name in expected and expected[name] != value
        remark = f"   should be {shown(expected[name])}" if wrong else ""
        yield f"  {LABELS[name]:<44}{shown(value):>20}{remark}"
    yield ""
