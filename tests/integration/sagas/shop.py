"""Participants of the order saga: what they did is in tables, what they refuse is told them."""

from dataclasses import dataclass, field

from eventbus import Context, Group, Reject, RetryPolicy, handles, undoes
from tests.unit.saga.shop import (
    CardCharged,
    CardDeclined,
    ChargeCard,
    CreateShipment,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    ShipmentCreated,
    StockReserved,
)

TABLES = (
    "applied (step text, order_id text, number bigint)",
    "undone (step text, order_id text, number bigint)",
)
QUICK = RetryPolicy(in_place=0, parked=())


@dataclass
class Told:
    """What participants do with an order."""

    prefix: str = ""  # of the tables
    declined: set[str] = field(default_factory=set[str])
    no_release: set[str] = field(default_factory=set[str])
    not_shipped: set[str] = field(default_factory=set[str])


told = Told()


async def _write(ctx: Context, table: str, step: str, order_id: str) -> None:
    await ctx.sql.execute(
        f"INSERT INTO {told.prefix}_{table} (step, order_id, number)"
        f" SELECT CAST($1 AS text), CAST($2 AS text), count(*) FROM {told.prefix}_{table}"
        " WHERE order_id = $2",
        step,
        order_id,
    )


@handles(ReserveStock, group=Group("stock", retry=QUICK))
async def reserve(command: ReserveStock, ctx: Context) -> StockReserved:
    await _write(ctx, "applied", "reserve", command.order_id)
    return StockReserved(reservation_id=f"R-{command.order_id}")


@undoes(reserve, ReleaseStock)
async def release(command: ReleaseStock, done: StockReserved, ctx: Context) -> None:
    if command.order_id in told.no_release:
        raise RuntimeError("the store is shut")
    await _write(ctx, "undone", "reserve", command.order_id)


@handles(ChargeCard, group=Group("payments", retry=QUICK))
async def charge(command: ChargeCard, ctx: Context) -> CardCharged:
    await _write(ctx, "applied", "charge", command.order_id)
    if command.order_id in told.declined:
        raise Reject(CardDeclined(reason="limit"))
    return CardCharged(charge_id=f"C-{command.order_id}")


@undoes(charge, RefundCard)
async def refund(command: RefundCard, done: CardCharged, ctx: Context) -> None:
    await _write(ctx, "undone", "charge", command.order_id)


@handles(CreateShipment, group=Group("shipping", retry=QUICK))
async def ship(command: CreateShipment, ctx: Context) -> ShipmentCreated:
    if command.order_id in told.not_shipped:
        raise RuntimeError("no ship in sight")
    await _write(ctx, "applied", "ship", command.order_id)
    return ShipmentCreated(shipment_id=f"S-{command.order_id}")


PARTICIPANTS = (reserve, release, charge, refund, ship)
