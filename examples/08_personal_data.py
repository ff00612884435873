"""Personal data, sealed wherever they stand, and forgotten by one call. Run it: it prints this.

`Personal` marks a field and says whom it is about. What is recorded and published is sealed under
a key of that person; handlers and projections read plain text, until the key is destroyed.

Prints:
    a mail to ada@example.com
    recorded: {"order_id":"A-1","customer_id":"C-7","email":"sealed:1:...
    read model: A-1 ada@example.com
    forgotten: C-7
    the log says: OrderPlaced(order_id='A-1', customer_id='C-7', email=Forgotten())
    read model: A-1 [forgotten]
"""

# ruff: noqa: D101, D102, D103, N999 - files are numbered for readers, and the header explains them

import asyncio
import os
from typing import Annotated

from eventbus import Event, EventBus, Forgotten, Personal, subscribe
from eventbus.sourcing import FoldingProjection, ReadModel, SubjectForgotten, projects


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


@subscribe(OrderPlaced, group="mail")
async def confirm(event: OrderPlaced) -> None:
    print("a mail to", event.email)


class Customer(ReadModel, table="customers", key="customer_id"):
    customer_id: str
    order_id: str = ""
    email: str = ""


class Customers(FoldingProjection[Customer], name="customers"):
    @projects(OrderPlaced, key=lambda event: event.customer_id)
    def placed(self, row: Customer, event: OrderPlaced) -> Customer:
        return row.model_copy(update={"order_id": event.order_id, "email": event.email})

    @projects(SubjectForgotten, key=lambda event: event.subject)
    def forgotten(self, row: Customer, event: SubjectForgotten) -> Customer:
        return row.model_copy(update={"email": Forgotten()})


async def show(bus: EventBus) -> None:
    await bus.until_idle()
    row = await bus.projections.get("customers", "C-7")
    assert isinstance(row, Customer)  # noqa: S101 - an example checks itself
    print("read model:", row.order_id, row.email)


async def main() -> None:
    master_key = os.urandom(32)  # yours comes from a secret store: it is never made anew
    bus = EventBus(
        "memory://", storage="sqlite://", handlers=[confirm, Customers], master_key=master_key
    )
    async with bus:
        order = OrderPlaced(order_id="A-1", customer_id="C-7", email="ada@example.com")
        await bus.events.append("order-A-1", [order], expected="absent")
        await bus.until_idle()
        [recorded] = await bus.events.read("order-A-1")
        print("recorded:", recorded.recorded.message.payload.decode()[:61] + "...")
        await show(bus)
        print("forgotten:", (await bus.events.forget("C-7")).subject.name)
        [recorded] = await bus.events.read("order-A-1")
        print("the log says:", repr(recorded.event))
        await show(bus)


if __name__ == "__main__":
    asyncio.run(main())
