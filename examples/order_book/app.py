"""The bus of the whole shop in one process, and its tables."""

from eventbus import EventBus
from examples.order_book import (
    billing,
    events,
    order_saga,
    orders,
    read_models,
    shipping,
    stock,
)
from examples.order_book.sources import Source, UnreadableError

READING = (
    "CREATE TABLE IF NOT EXISTS reading (fingerprint text PRIMARY KEY, upto bigint NOT NULL,"
    " lines bigint NOT NULL, orders bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS malformed (line bigint PRIMARY KEY, why text NOT NULL)",
)
TABLES = (*READING, *orders.TABLES, *stock.TABLES, *billing.TABLES, *shipping.TABLES)
SERVICES = (events, stock, billing, shipping, order_saga, read_models)


def order_book(storage: str, transport: str = "memory://") -> EventBus:
    """Services are modules: what they define is found there, and they know nothing of each other.

    On a broker each runs in a process of its own (`services.py`), from the same modules.
    """
    return EventBus(transport, storage=storage, service="order-book", handlers=SERVICES)


async def prepare(bus: EventBus, source: Source) -> int:
    """Make the tables, or find what an earlier run left; how many lines were read.

    Raises:
        UnreadableError: the database holds another input.
    """
    async with bus.transaction() as tx:
        for table in TABLES:
            await tx.sql.execute(table)
        await tx.sql.execute(
            "INSERT INTO reading SELECT $1, 0, 0, 0 WHERE NOT EXISTS (SELECT * FROM reading)",
            source.fingerprint,
        )
        found = await tx.sql.fetch("SELECT fingerprint, upto FROM reading")
    if found[0]["fingerprint"] != source.fingerprint:
        raise UnreadableError("the database holds another input: give it a --storage of its own")
    upto: int = found[0]["upto"]
    return upto
