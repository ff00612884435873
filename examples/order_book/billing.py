"""Group billing: revenue by country and month, invoices, how many lines fell under a rule."""

from collections import Counter
from collections.abc import Sequence

from eventbus import Context, Group, subscribe
from examples.order_book.events import Invoice, InvoiceCancelled

TABLES = (
    "CREATE TABLE IF NOT EXISTS revenue (country text, month text, amount bigint NOT NULL,"
    " PRIMARY KEY (country, month))",
    "CREATE TABLE IF NOT EXISTS invoices (invoice text PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS tallies (rule text PRIMARY KEY, lines bigint NOT NULL)",
)
BILLING = Group("billing", batch_messages=200)


@subscribe(Invoice, group=BILLING, batch=True)
async def book(invoices: Sequence[Invoice], ctx: Context) -> None:
    """Add up in Python what a batch has, and write each row once."""
    revenue = Counter[tuple[str, str]]()
    tallies = Counter[str]()
    for invoice in invoices:
        amounts = sum(line.amount for line in invoice.lines)
        revenue[invoice.country, f"{invoice.issued_at:%Y-%m}"] += amounts
        tallies.update(tallied(invoice))
    await ctx.sql.execute_many(
        "INSERT INTO revenue (country, month, amount) VALUES ($1, $2, $3)"
        " ON CONFLICT (country, month) DO UPDATE SET amount = revenue.amount + excluded.amount",
        [(country, month, amount) for (country, month), amount in revenue.items()],
    )
    await ctx.sql.execute_many(
        "INSERT INTO invoices (invoice) VALUES ($1) ON CONFLICT DO NOTHING",
        [(invoice,) for invoice in dict.fromkeys(one.invoice for one in invoices)],
    )
    await ctx.sql.execute_many(
        "INSERT INTO tallies (rule, lines) VALUES ($1, $2)"
        " ON CONFLICT (rule) DO UPDATE SET lines = tallies.lines + excluded.lines",
        list(tallies.items()),
    )


def tallied(invoice: Invoice) -> Counter[str]:
    """How many lines of an invoice fall under each rule; a line may fall under several."""
    is_cancelled = isinstance(invoice, InvoiceCancelled)
    return Counter(
        {
            "all": len(invoice.lines),
            "without customer": len(invoice.lines) if invoice.customer is None else 0,
            "price 0": sum(line.price == 0 for line in invoice.lines),
            "negative without C": 0
            if is_cancelled
            else sum(line.quantity < 0 for line in invoice.lines),
        }
    )
