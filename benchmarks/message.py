"""The one message that every case publishes: 285 bytes of JSON, ids, time, lines with decimals."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from pydantic import BaseModel

from eventbus import Event

BYTES = 285


class Line(BaseModel):
    sku: str
    quantity: int
    price: Decimal


class OrderFields(BaseModel):
    """The same fields without the framework: what a raw loop encodes and decodes."""

    order_id: UUID
    customer_id: UUID
    placed_at: datetime
    currency: str
    note: str
    lines: tuple[Line, ...]


class OrderPlaced(Event, type="bench.order-placed", key="order_id"):
    order_id: UUID
    customer_id: UUID
    placed_at: datetime
    currency: str
    note: str
    lines: tuple[Line, ...]


def fields(number: int) -> dict[str, object]:
    """The fields of the n-th message; every one of a key of its own."""
    return {
        "order_id": UUID(int=0x0198_0000_0000_7000_8000_0000_0000_0000 + number),
        "customer_id": UUID(int=0x0198_1111_2222_7333_8444_5555_6666_7777),
        "placed_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "currency": "EUR",
        "note": "at door",
        "lines": (
            Line(sku="SKU-0001", quantity=2, price=Decimal("19.99")),
            Line(sku="SKU-0002", quantity=1, price=Decimal("4.50")),
        ),
    }


def orders(count: int) -> list[OrderPlaced]:
    """Typed events, made outside the clock."""
    return [OrderPlaced(**fields(number)) for number in range(count)]


def raw_orders(count: int) -> list[OrderFields]:
    """The same as plain pydantic models."""
    return [OrderFields(**fields(number)) for number in range(count)]
