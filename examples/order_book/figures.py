"""What the tables add up to: read models, ledger, and what the services wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventbus import EventBus, UnitOfWork
from examples.order_book.outcomes import Recorded, recorded
from examples.order_book.reading import saga_statuses
from examples.order_book.totals import Outcomes, Totals

Rows = Sequence[Mapping[str, Any]]
ACCOUNTS = ("cards", "held", "sales", "returns", "bad debts", "corrections")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one moment; money in thousandths."""

    countries: Rows
    months: Rows
    totals: Totals
    outcomes: Outcomes
    balances: Mapping[str, int]  # of every account
    unbalanced: int  # postings that move another amount than they take
    recorded: Recorded
    sums: Mapping[str, tuple[int, int]]  # lines and amount, by where they were counted
    reserved: int  # pieces
    waiting: frozenset[str]  # orders whose day is not over
    statuses: Mapping[str, str]  # of the sagas, by order


async def figures(bus: EventBus) -> Figures:
    """Read everything."""
    log, statuses = await recorded(bus), await saga_statuses(bus)
    async with bus.transaction() as tx:
        countries = await tx.sql.fetch(
            "SELECT country AS name, sum(amount) AS amount, sum(shipped) AS shipped FROM revenue"
            " GROUP BY country ORDER BY 2 DESC, 1"
        )
        months = await tx.sql.fetch(
            "SELECT month AS name, sum(amount) AS amount, sum(shipped) AS shipped FROM revenue"
            " GROUP BY month ORDER BY 1"
        )
        balances = await _balances(tx)
        unbalanced = await tx.sql.fetch(
            "SELECT posting FROM ledger GROUP BY posting HAVING sum(amount) <> 0"
        )
        waiting = await tx.sql.fetch("SELECT order_id FROM open_orders")
        return Figures(
            countries=countries,
            months=months,
            totals=await _totals(tx, countries),
            outcomes=await _outcomes(tx, log, balances),
            balances=balances,
            unbalanced=len(unbalanced),
            recorded=log,
            sums=await _sums(tx, log),
            reserved=await _number(tx, "SELECT coalesce(sum(pieces), 0) AS n FROM reservations"),
            waiting=frozenset(row["order_id"] for row in waiting),
            statuses=statuses,
        )


async def _balances(tx: UnitOfWork) -> Mapping[str, int]:
    rows = await tx.sql.fetch("SELECT account, sum(amount) AS amount FROM ledger GROUP BY account")
    found = Counter(dict.fromkeys(ACCOUNTS, 0))
    found.update({row["account"]: int(row["amount"]) for row in rows})
    return found


async def _totals(tx: UnitOfWork, countries: Rows) -> Totals:
    """From the read models, and from nothing else but the list of malformed lines."""
    rows = await tx.sql.fetch(
        "SELECT count(*) AS invoices, coalesce(sum(lines), 0) AS lines,"
        " coalesce(sum(without_customer), 0) AS without_customer,"
        " coalesce(sum(price_zero), 0) AS price_zero,"
        " coalesce(sum(negative_without_c), 0) AS negative_without_c FROM invoices"
    )
    counted = {name: int(value) for name, value in rows[0].items()}
    letters = await tx.sql.fetch(
        "SELECT substr(invoice, 1, 1) AS letter, count(*) AS n FROM invoices GROUP BY 1"
    )
    by_letter = {row["letter"]: row["n"] for row in letters}
    return Totals(
        **counted,
        amount=sum(int(row["amount"]) for row in countries),
        stock_codes=await _number(tx, "SELECT count(*) AS n FROM stock"),
        countries=len(countries),
        cancellations=by_letter.get("C", 0),
        debts=by_letter.get("A", 0),
        malformed=await _number(tx, "SELECT count(*) AS n FROM malformed"),
    )


async def _outcomes(tx: UnitOfWork, log: Recorded, balances: Mapping[str, int]) -> Outcomes:
    """What was shipped from the parcels, money from the ledger, refusals by the rules."""
    parcels = await tx.sql.fetch(
        "SELECT count(*) AS shipped, coalesce(sum(pieces), 0) AS pieces FROM parcels"
    )
    by_rule = log.orders()
    return Outcomes(
        orders=len(log.fates),
        shipped=parcels[0]["shipped"],
        out_of_stock=by_rule["out of stock"],
        declined=by_rule["card declined"],
        cancelled=by_rule["cancelled"],
        undeliverable=by_rule["undeliverable"],
        pieces=int(parcels[0]["pieces"]),
        sales=-balances["sales"],
        returns=-balances["returns"],
        bad_debts=-balances["bad debts"],
        corrections=-balances["corrections"],
    )


async def _sums(tx: UnitOfWork, log: Recorded) -> Mapping[str, tuple[int, int]]:
    """Lines and amount, as five counted them: all five must have counted the same."""
    stock = await tx.sql.fetch(
        "SELECT coalesce(sum(lines), 0) AS lines, coalesce(sum(amount), 0) AS amount FROM stock"
    )
    lines = await _number(tx, "SELECT lines AS n FROM reading")
    invoices = await _number(tx, "SELECT coalesce(sum(lines), 0) AS n FROM invoices")
    revenue = await _number(tx, "SELECT coalesce(sum(amount), 0) AS n FROM revenue")
    customers = await _number(tx, "SELECT coalesce(sum(amount), 0) AS n FROM customers")
    return {
        "log": (log.lines, log.amount),
        "reader and revenue": (lines, revenue),
        "stock": (int(stock[0]["lines"]), int(stock[0]["amount"])),
        "invoices and customers": (invoices, customers),
    }


async def _number(tx: UnitOfWork, query: str) -> int:
    rows = await tx.sql.fetch(query)
    return int(rows[0]["n"])
