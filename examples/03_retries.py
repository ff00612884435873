"""What fails is parked and tried again; the order of its key is kept. Run it: it prints this.

A-1 fails at first. What comes later for A-1 waits behind it; B-1 goes on. C-1 fails in a way that
no attempt can help: it becomes a dead letter at once, until somebody redrives it.

Prints:
    A-1 placed: attempt 1 fails
    B-1 placed: charged on attempt 1
    C-1 placed: card refused
    A-1 placed: charged on attempt 2
    A-1 changed: charged on attempt 1
    dead letter: C-1, CardRefusedError, 1 attempt
    redriven: 1
    C-1 placed: charged on attempt 1
"""

# ruff: noqa: D101, D102, D103, N999 - files are numbered for readers, and the header explains them

import asyncio
from datetime import timedelta

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    what: str = "placed"


class CardRefusedError(Exception):
    pass


class Payments:
    """Somebody else's service: away at first, and it refuses one card."""

    def __init__(self) -> None:
        self.refused = {"C-1"}
        self.charged = asyncio.Queue[str]()

    def charge(self, event: OrderPlaced, attempt: int) -> None:
        if event.order_id in self.refused:
            print(f"{event.order_id} {event.what}: card refused")
            raise CardRefusedError
        if event == OrderPlaced(order_id="A-1") and attempt == 1:
            print(f"{event.order_id} {event.what}: attempt 1 fails")
            raise ConnectionError
        print(f"{event.order_id} {event.what}: charged on attempt {attempt}")
        self.charged.put_nowait(event.order_id)


BILLING = Group(
    "billing",
    retry=RetryPolicy(
        in_place=0,  # else the first failure is tried again at once, in the same transaction
        parked=(timedelta(seconds=2), timedelta(minutes=2)),
        dead_letter_on=(CardRefusedError,),
    ),
)


async def main() -> None:
    payments = Payments()

    @subscribe(OrderPlaced, group=BILLING)
    async def bill(event: OrderPlaced, ctx: Context) -> None:
        payments.charge(event, ctx.attempt)  # outside the database: give it ctx.idempotency_key

    async with EventBus("memory://", storage="sqlite://", handlers=[bill]) as bus:
        for order in ("A-1 placed", "A-1 changed", "B-1 placed", "C-1 placed"):
            order_id, what = order.split()
            await bus.publish(OrderPlaced(order_id=order_id, what=what))
            await bus.until_idle()  # what is parked, and due later, does not count
        for _ in range(3):
            await payments.charged.get()
        for letter in await bus.dead_letters.list():
            failed = letter["error_type"].rpartition(".")[2]
            print(f"dead letter: {letter['key']}, {failed}, {letter['attempts']} attempt")
        payments.refused.clear()
        redriven = await bus.dead_letters.change("redrive", actor="me", reason="card mended")
        print("redriven:", redriven)
        await payments.charged.get()


asyncio.run(main())
