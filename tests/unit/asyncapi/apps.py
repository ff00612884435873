"""The applications of `examples/`, and one with everything that is hard to document."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Literal
from unittest.mock import patch

from pydantic import BaseModel, Field

from eventbus import Context, Event, EventBus, Untyped, subscribe, upcast
from examples.order_book.app import order_book
from tests.unit.asyncapi import named_alike

TRANSPORTS = {
    "memory": "memory://",
    "kafka": "kafka://localhost:9092?partitions=6&replication=3",
    "rabbit": "amqp://localhost/shop",
}


class Card(BaseModel):
    """Paid at once."""

    kind: Literal["card"]
    digits: str = ""


class Bill(BaseModel):
    """Paid later."""

    kind: Literal["bill"]
    days: int


class Line(BaseModel):
    """Of an order; parts are lines as well."""

    sku: str
    parts: list["Line"] = []


class Ordered(Event, type="shop.ordered", key="order", version=3):
    """A customer ordered."""

    order: str
    payment: Annotated[Card | Bill, Field(discriminator="kind")]
    lines: list[Line]
    discriminator: tuple[int, str] | None = None  # a field may be called like a keyword

    @staticmethod
    @upcast(2)
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        return data


class Packed(Event, type="depot.packed", key="order"):
    """It left the shelves."""

    order: str


@subscribe(Ordered, group="depot")
async def pack(event: Ordered, ctx: Context) -> None:
    pass


@subscribe(Packed, group="watch")
async def count(event: Packed) -> None:
    pass


@subscribe("legacy.*", group="watch")
@subscribe("legacy.user created/~1", group="watch")
async def watch(event: Untyped) -> None:
    pass


HANDLERS = [pack, count, watch, named_alike.count]


def hard(transport: str = "memory://", *, storage: str | None = None) -> EventBus:
    return EventBus(transport, storage=storage, service="shop", handlers=HANDLERS)


def _module(name: str) -> ModuleType:
    """Without what it does when it is run."""
    with patch("asyncio.run", lambda main: main.close()):
        return import_module(f"examples.{name}")


def _bus(name: str) -> EventBus:
    bus: EventBus = _module(name).bus
    return bus


def _of(name: str, *handlers: str, **more: Any) -> EventBus:
    """Where the bus is made in `main`: one of these handlers, or of all that the module holds."""
    module = _module(name)
    given = [getattr(module, each) for each in handlers] or [module]
    return EventBus("memory://", storage="sqlite://", service="shop", handlers=given, **more)


APPS: Mapping[str, Callable[[], EventBus]] = {
    "01_hello": lambda: _of("01_hello"),
    "02_outbox": lambda: _of("02_outbox"),
    "03_retries": lambda: _of("03_retries"),
    "04_event_sourcing": lambda: _of("04_event_sourcing"),
    "05_saga": lambda: _bus("05_saga"),
    "06_projections": lambda: _of("06_projections", "RevenueByCountry"),
    "07_testing": lambda: _of("07_testing"),
    "08_personal_data": lambda: _of(
        "08_personal_data", "confirm", "Customers", master_key=bytes(32)
    ),
    "live_services": lambda: _bus("live_services.app"),
    "postgres_service": lambda: _bus("postgres_service.worker"),
    "order_book": lambda: order_book("sqlite://"),
    "hard": hard,
}
