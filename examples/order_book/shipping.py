"""The shipping service: parcels leave in the evening, and do not come back.

Where nobody knows the country, nothing can be sent.
"""

from datetime import timedelta

from eventbus import Command, Context, Event, Group, Reject, Rejection, Reply, handles
from examples.order_book.events import Sale

NOWHERE = frozenset({"Unspecified"})
TABLES = ("CREATE TABLE IF NOT EXISTS parcels (order_id text PRIMARY KEY, pieces bigint NOT NULL)",)
SHIPPING = Group("shipping", lanes=4, timeout=timedelta(seconds=15))


class Shipped(Reply, type="shipping.shipped"):
    """It is on its way."""


class Undeliverable(Rejection, type="shipping.undeliverable"):
    """There is no such place."""

    country: str


class Ship(Command[Shipped], type="shipping.ship", key="order_id", rejects=(Undeliverable,)):
    """One parcel for all lines."""

    order_id: str
    sale: Sale


class ParcelLeft(Event, type="shipping.parcel-left", key="order_id"):
    """The order is fulfilled: billing makes a sale of it, the read models count it."""

    order_id: str
    sale: Sale


@handles(Ship, group=SHIPPING)
async def ship(command: Ship, ctx: Context) -> Shipped:
    """Row, fact and reply are one commit."""
    if is_nowhere(command.sale.country):
        raise Reject(Undeliverable(country=command.sale.country))
    await ctx.sql.execute(
        "INSERT INTO parcels (order_id, pieces) VALUES ($1, $2)",
        command.order_id,
        sum(line.quantity for line in command.sale.lines),
    )
    left = ParcelLeft(order_id=command.order_id, sale=command.sale)
    await ctx.append(f"order-{command.order_id}", [left], expected="any")
    return Shipped()


def is_nowhere(country: str) -> bool:
    """Whether nothing can be sent there."""
    return country in NOWHERE
