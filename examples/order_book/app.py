"""The bus, and the loop that records: orders and how far they were read commit together."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from eventbus import EventBus, UnitOfWork
from examples.order_book import billing, events, stock
from examples.order_book.invoices import Chunk, chunks
from examples.order_book.orders import record
from examples.order_book.sources import Source, UnreadableError

TABLES = (
    "CREATE TABLE IF NOT EXISTS reading (fingerprint text PRIMARY KEY, upto bigint NOT NULL,"
    " lines bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS malformed (line bigint PRIMARY KEY, why text NOT NULL)",
    *billing.TABLES,
    *stock.TABLES,
)
MOST_AHEAD = 15_000  # lines that may wait for the handlers: what bounds memory and the outbox
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; lines."""

    upto: int  # read, with those that could not be
    published: int
    handled: int  # by the slower group


def order_book(storage: str) -> EventBus:
    """The bus: two groups over one database; hand over the module of events to know them all."""
    return EventBus(
        "memory://", storage=storage, service="order-book", handlers=[events, billing, stock]
    )


async def prepare(bus: EventBus, source: Source) -> Progress:
    """Make the tables, or find what an earlier run left; where reading goes on.

    Raises:
        UnreadableError: the database holds another input.
    """
    async with bus.transaction() as tx:
        for table in TABLES:
            await tx.sql.execute(table)
        await tx.sql.execute(
            "INSERT INTO reading SELECT $1, 0, 0 WHERE NOT EXISTS (SELECT * FROM reading)",
            source.fingerprint,
        )
        found = await tx.sql.fetch("SELECT fingerprint FROM reading")
    if found[0]["fingerprint"] != source.fingerprint:
        raise UnreadableError("the database holds another input: give it a --storage of its own")
    return await progress(bus)


async def progress(bus: EventBus) -> Progress:
    """How far reading and both groups are."""
    async with bus.transaction() as tx:
        return await _progress(tx)


async def _progress(tx: UnitOfWork) -> Progress:
    rows = await tx.sql.fetch(
        "SELECT upto, lines AS published,"
        " (SELECT coalesce(sum(lines), 0) FROM tallies WHERE rule = 'all') AS billed,"
        " (SELECT coalesce(sum(lines), 0) FROM stock) AS counted FROM reading"
    )
    row = rows[0]
    return Progress(row["upto"], row["published"], min(row["billed"], row["counted"]))


async def read(
    bus: EventBus,
    source: Source,
    now: Progress,
    *,
    limit: int | None,
    warn: Callable[[int, str], None],
    tell: Callable[[Progress], None],
) -> None:
    """Record what was not recorded yet, and return when everything is handled."""
    lines = itertools.islice(source.lines(), now.upto, limit)
    for chunk in chunks(lines, after=now.upto):
        now = await publish(bus, chunk)
        for number, why in chunk.malformed:
            warn(number, why)
        tell(now)
        if now.published - now.handled > MOST_AHEAD:
            await _until_handled(bus, MOST_AHEAD // 2, tell)
    await _until_handled(bus, 0, tell)
    await bus.until_idle(at_most=timedelta(seconds=PATIENCE_SECONDS))


async def publish(bus: EventBus, chunk: Chunk) -> Progress:
    """One transaction: killed before its commit nothing of it happened, behind it all of it."""
    async with bus.transaction() as tx:
        await tx.sql.execute(
            "UPDATE reading SET upto = $1, lines = lines + $2", chunk.upto, chunk.lines
        )
        await tx.sql.execute_many("INSERT INTO malformed VALUES ($1, $2)", chunk.malformed)
        await record(chunk.invoices, tx)
        return await _progress(tx)


async def _until_handled(bus: EventBus, ahead: int, tell: Callable[[Progress], None]) -> None:
    """Wait for the handlers; give up when they make no progress."""
    now = await progress(bus)
    since = time.monotonic()
    while now.published - now.handled > ahead:
        await asyncio.sleep(0.05)
        before, now = now, await progress(bus)
        tell(now)
        if now.handled > before.handled:
            since = time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            raise TimeoutError(f"{now.published - now.handled:,} lines are not handled")
