"""Group stock: what left the shelf, and what came back, per product."""

from collections import Counter
from collections.abc import Sequence

from eventbus import Context, Group, subscribe
from examples.order_book.events import Invoice

TABLES = (
    "CREATE TABLE IF NOT EXISTS stock (stock_code text PRIMARY KEY, units bigint NOT NULL,"
    " lines bigint NOT NULL, amount bigint NOT NULL)",
)
STOCK = Group("stock", batch_messages=200)


@subscribe(Invoice, group=STOCK, batch=True)
async def count(invoices: Sequence[Invoice], ctx: Context) -> None:
    """Sums do not ask for an order, and each invoice is counted once: its key is the invoice."""
    units, lines, amounts = Counter[str](), Counter[str](), Counter[str]()
    for invoice in invoices:
        for line in invoice.lines:
            units[line.stock_code] -= line.quantity
            lines[line.stock_code] += 1
            amounts[line.stock_code] += line.amount
    await ctx.sql.execute_many(
        "INSERT INTO stock (stock_code, units, lines, amount) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (stock_code) DO UPDATE SET units = stock.units + excluded.units,"
        " lines = stock.lines + excluded.lines, amount = stock.amount + excluded.amount",
        [(code, units[code], lines[code], amounts[code]) for code in lines],
    )
