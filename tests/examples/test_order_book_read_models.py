"""The read models of the order book, made again while orders keep coming in: the same rows."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.testing import projected
from examples.order_book.app import order_book, prepare
from examples.order_book.events import CreditNoteIssued, Line, OrderPlaced, Sale, StockCorrected
from examples.order_book.figures import figures
from examples.order_book.invoices import chunks, moment
from examples.order_book.read_models import (
    GUEST,
    NAMES,
    Customer,
    Customers,
    InvoiceRow,
    Invoices,
    Revenue,
    RevenueByMonth,
    Stock,
    StockByProduct,
)
from examples.order_book.reading import progress, publish, read
from examples.order_book.report import report
from examples.order_book.shipping import ParcelLeft
from examples.order_book.sources import of_seed

ENOUGH_SECONDS = 200.0
TEA, CAKE = "22423", "85123A"


def sale(*lines: tuple[str, int, int], customer: int | None = 17850) -> Sale:
    return Sale(
        issued_at=moment("2010-12-01 08:26:00"),
        customer=customer,
        country="EIRE",
        lines=tuple(Line(stock_code=code, quantity=n, price=price) for code, n, price in lines),
    )


ORDER = sale((TEA, 2, 500), (CAKE, 1, 1000), (TEA, 3, 500))
BACK = sale((TEA, -1, 500))
LOST = sale((CAKE, -4, 0), customer=None)
EVENTS = (
    OrderPlaced(order_id="1.1", invoice="1", sale=ORDER),
    ParcelLeft(order_id="1.1", sale=ORDER),
    CreditNoteIssued(order_id="C2.4", invoice="C2", sale=BACK),
    StockCorrected(order_id="3.5", invoice="3", sale=LOST),
)


def test_revenue_counts_what_was_invoiced_and_what_left() -> None:
    projected(RevenueByMonth).given(*EVENTS).then(
        Revenue(country="EIRE", month="2010-12", amount=3000, shipped=3500)
    )


def test_stock_has_a_row_for_each_product_of_an_order() -> None:
    projected(StockByProduct).given(*EVENTS).then(
        Stock(stock_code=TEA, lines=3, amount=2000, ordered=5, came_back=1, shipped=5),
        Stock(stock_code=CAKE, lines=2, amount=1000, ordered=1, corrected=-4, shipped=1),
    )


def test_customers_have_orders_parcels_and_credit() -> None:
    projected(Customers).given(*EVENTS).then(
        Customer(customer=GUEST),
        Customer(customer=17850, orders=1, parcels=1, amount=3000, shipped=3500, credited=500),
    )


def test_invoices_count_lines_under_each_rule() -> None:
    projected(Invoices).given(*EVENTS).then(
        InvoiceRow(invoice="1", lines=3),
        InvoiceRow(invoice="3", lines=1, without_customer=1, price_zero=1, negative_without_c=1),
        InvoiceRow(invoice="C2", lines=1),
    )


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


async def digests(bus: EventBus) -> dict[str, str]:
    """A hash over all rows of each table that serves."""
    found: dict[str, str] = {}
    async with bus.transaction() as tx:
        for table in NAMES:
            rows = sorted(repr(tuple(row.items())) for row in await tx.sql.fetch(_all_of(table)))
            found[table] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return found


async def _until_followed(bus: EventBus) -> None:
    """The read models have rows of the orders that came first: there is something to compare."""
    page = await bus.events.read_all()
    for name in NAMES:
        await bus.projections.wait(name, page.events[-1].recorded.position)


def _all_of(table: str) -> str:
    return f"SELECT * FROM {table}"


@pytest.mark.timeout(240)
async def test_made_again_while_orders_come_in_they_have_the_same_rows(storage: str) -> None:
    source = of_seed(4, 100)
    coming = chunks(source.lines(), after=0, size=10)
    bus = order_book(storage)
    await bus.upgrade()

    async def more_orders(difference: object) -> bool:
        """Between the comparison and the switch, while sagas of earlier orders send parcels off."""
        await publish(bus, next(coming))
        return True

    async with bus, asyncio.timeout(ENOUGH_SECONDS):
        await prepare(bus, source)
        await publish(bus, next(coming))
        await _until_followed(bus)
        for name in NAMES:
            rebuilt = await bus.projections.rebuild(name, confirm=more_orders)
            found = rebuilt.difference
            assert (found.differ, found.new, found.gone) == (0, 0, 0), name
            assert (found.equal > 0, rebuilt.switched) == (True, True)
        upto = (await progress(bus)).upto
        await read(bus, source, upto, limit=None, warn=lambda *_: None, tell=lambda _: None)
        text, holds = report(await figures(bus), source, whole=True)
        assert holds, text
        before = await digests(bus)
        for name in NAMES:
            await bus.projections.rebuild(name)
        assert await digests(bus) == before
        async with bus.transaction() as tx:  # the hash sees a single penny
            await tx.sql.execute("UPDATE revenue SET shipped = shipped + 1 WHERE country = 'EIRE'")
        assert (await digests(bus))["revenue"] != before["revenue"]
