"""The shop killed at every crash point; from the directory above `examples`:

eventbus crashtest examples/order_book/crashes.py:a_morning --app examples.order_book.crashes:bus
"""

# ruff: noqa: S101 - an invariant asserts

import itertools

from eventbus import EventBus, UnitOfWork
from eventbus.testing import invariant
from examples.order_book import app, orders
from examples.order_book.invoices import chunks
from examples.order_book.reading import publish
from examples.order_book.sources import of_seed

SOURCE = of_seed(seed=1, invoices=20)
LINES = 6  # of a few orders, which the sagas bring to their end
bus: EventBus = app.order_book("sqlite://")


async def prepare(shop: EventBus) -> None:
    """The tables of all services."""
    await app.prepare(shop, SOURCE)


async def a_morning(shop: EventBus) -> None:
    """A few lines are read, then the day is over."""
    for chunk in chunks(itertools.islice(SOURCE.lines(), LINES), after=0):
        await publish(shop, chunk)
    async with shop.transaction() as tx:
        await orders.close_the_book(tx)


@invariant
async def the_ledger_balances(tx: UnitOfWork) -> None:
    """Money is moved, never made."""
    assert not await tx.sql.fetch(
        "SELECT posting, sum(amount) AS amount FROM ledger GROUP BY posting HAVING sum(amount) <> 0"
    )


@invariant
async def what_is_reserved_was_shipped(tx: UnitOfWork) -> None:
    """A reservation without a parcel is one that nobody took back."""
    assert not await tx.sql.fetch(
        "SELECT r.order_id FROM reservations r LEFT JOIN parcels p ON p.order_id = r.order_id"
        " WHERE p.order_id IS NULL AND r.order_id NOT IN (SELECT order_id FROM open_orders)"
    )


@invariant
async def what_was_shipped_is_sold(tx: UnitOfWork) -> None:
    """Each parcel once."""
    assert not await tx.sql.fetch(
        "SELECT p.order_id FROM parcels p LEFT JOIN ledger l"
        " ON l.posting = 'sale ' || p.order_id AND l.account = 'sales' WHERE l.posting IS NULL"
    )
