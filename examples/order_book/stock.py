"""The stock service: it reserves what is ordered, or says that it has run out.

A shelf holds 1,000 pieces of a product, and is filled up behind each order: so whether an order
can be had depends on nothing but the order, and any run of the book ends with the same figures.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta

from eventbus import Command, Context, Group, Reject, Rejection, Reply, handles, undoes
from eventbus.saga import Undone
from examples.order_book.events import Line

SHELF_PIECES = 1_000
TABLES = (
    "CREATE TABLE IF NOT EXISTS reservations (order_id text PRIMARY KEY, pieces bigint NOT NULL)",
)
STOCK = Group("stock", lanes=4, timeout=timedelta(seconds=15))


class StockReserved(Reply, type="stock.stock-reserved"):
    """It stands aside for this order."""


class OutOfStock(Rejection, type="stock.out-of-stock"):
    """Of this product nobody has so many."""

    stock_code: str


class ReserveStock(
    Command[StockReserved], type="stock.reserve-stock", key="order_id", rejects=(OutOfStock,)
):
    """All lines, or nothing."""

    order_id: str
    lines: tuple[Line, ...]


class ReleaseStock(Command[Undone], type="stock.release-stock", key="order_id"):
    """Back onto the shelves."""

    order_id: str


@handles(ReserveStock, group=STOCK)
async def reserve(command: ReserveStock, ctx: Context) -> StockReserved:
    """What it writes commits together with its reply; a rejection leaves nothing behind."""
    missing = out_of_stock(command.lines)
    if missing is not None:
        raise Reject(OutOfStock(stock_code=missing))
    await ctx.sql.execute(
        "INSERT INTO reservations (order_id, pieces) VALUES ($1, $2)",
        command.order_id,
        sum(line.quantity for line in command.lines),
    )
    return StockReserved()


@undoes(reserve, ReleaseStock)
async def release(command: ReleaseStock, done: StockReserved, ctx: Context) -> None:
    """Called only if the reservation was made, and once, whatever is repeated or late."""
    await ctx.sql.execute("DELETE FROM reservations WHERE order_id = $1", command.order_id)


def out_of_stock(lines: Iterable[Line]) -> str | None:
    """The first product of which a shelf does not hold enough; None: all of them can be had."""
    wanted = Counter[str]()
    for line in lines:
        wanted[line.stock_code] += line.quantity
    return next((code for code, pieces in wanted.items() if pieces > SHELF_PIECES), None)
