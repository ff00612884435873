"""The worker's side: `eventbus run examples.postgres_service.worker:bus`."""

from eventbus import Context, EventBus, subscribe
from examples.postgres_service.events import OrderPlaced
from examples.postgres_service.tables import URL


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    """Once for each order: the row commits together with the one that says it was handled."""
    await ctx.sql.execute(
        "INSERT INTO bills (order_id, cents) VALUES ($1, $2)", event.order_id, event.cents
    )
    print(f"billed {event.order_id}", flush=True)


bus = EventBus("memory://", storage=URL, handlers=[bill], service="shop")
