"""The shop's own tables, beside those of the bus: `python -m examples.postgres_service.tables`."""

import asyncio
import os

from sqlalchemy import CheckConstraint, insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL = os.environ.get("SHOP_DATABASE", "postgresql://postgres@127.0.0.1/shop")


class Table(DeclarativeBase):
    """All of them."""


class Order(Table):
    """Written by the web process."""

    __tablename__ = "orders"
    order_id: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str]
    cents: Mapped[int]


class Stock(Table):
    """Taken from by the web process; never below nothing."""

    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("amount >= 0"),)
    item: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[int]


class Bill(Table):
    """Written by a handler, in a worker; no key that would hide a second one."""

    __tablename__ = "bills"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    cents: Mapped[int]


def engine_of(url: str) -> AsyncEngine:
    """With the driver that the bus uses too: then a session's transaction can be joined."""
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))


async def create(url: str) -> None:
    """The tables, and some tea."""
    engine = engine_of(url)
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
        await connection.execute(insert(Stock).values(item="tea", amount=3))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create(URL))
