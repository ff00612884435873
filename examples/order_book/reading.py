"""The loop that reads: orders and how far the file was read commit together."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from eventbus import EventBus
from eventbus.saga import SagaQuery
from examples.order_book.invoices import Chunk, chunks
from examples.order_book.orders import close_the_book, record
from examples.order_book.read_models import NAMES
from examples.order_book.sources import Source

MOST_WAITING = 1_000  # messages in the outbox: above that, reading waits for the services
MOST_SAGAS = 1_000_000
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.1
ENDED = frozenset({"completed", "compensated"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    upto: int  # lines read, with those that could not be
    placed: int  # orders
    waiting: int  # orders whose day is not over
    open: int  # sagas, with those that wait
    evening: int  # of these: all that was to be done before the day is over is done
    parcels: int
    sales: int  # parcels that are booked

    @property
    def under_way(self) -> int:
        """Sagas that have something to do."""
        return self.open - self.evening


Tell = Callable[[Progress], None]


async def read(
    bus: EventBus,
    source: Source,
    upto: int,
    *,
    limit: int | None,
    warn: Callable[[int, str], None],
    tell: Tell,
) -> None:
    """Record what was not recorded yet, and return when every order has come to its end."""
    lines = itertools.islice(source.lines(), upto, limit)
    for chunk in chunks(lines, after=upto):
        await publish(bus, chunk)
        for number, why in chunk.malformed:
            warn(number, why)
        tell(await progress(bus))
        await _until(bus, _has_room, tell)
    if limit is None:
        async with bus.transaction() as tx:
            await close_the_book(tx)
    await _until(bus, _has_ended, tell)


async def publish(bus: EventBus, chunk: Chunk) -> None:
    """One transaction: killed before its commit nothing of it happened, behind it all of it."""
    async with bus.transaction() as tx:
        placed = await record(chunk.invoices, tx)
        await tx.sql.execute(
            "UPDATE reading SET upto = $1, lines = lines + $2, orders = orders + $3",
            chunk.upto,
            chunk.lines,
            placed,
        )
        await tx.sql.execute_many("INSERT INTO malformed VALUES ($1, $2)", chunk.malformed)


async def progress(bus: EventBus) -> Progress:
    """Of reading, of the sagas, and of what follows them."""
    in_flight = await bus.sagas.in_flight()
    async with bus.transaction() as tx:
        rows = await tx.sql.fetch(
            "SELECT upto, orders AS placed, (SELECT count(*) FROM open_orders) AS waiting,"
            " (SELECT count(*) FROM parcels) AS parcels, (SELECT count(*) FROM ledger"
            " WHERE account = 'sales') AS sales FROM reading"
        )
    return Progress(
        **rows[0],
        open=sum(each.count for each in in_flight),
        evening=sum(each.count for each in in_flight if each.step == "evening"),
    )


async def saga_statuses(bus: EventBus) -> dict[str, str]:
    """How far each order is, by its id."""
    every = await bus.sagas.list(SagaQuery(saga="fulfil-order"), limit=MOST_SAGAS)
    return {one.key: one.status for one in every}


async def _has_room(bus: EventBus, now: Progress) -> bool:
    """What bounds memory: messages that nobody could take yet."""
    return len(await bus.outbox.list(limit=MOST_WAITING)) < MOST_WAITING


async def _has_ended(bus: EventBus, now: Progress) -> bool:
    """Cheap questions first: the last one reads all sagas."""
    if now.under_way or now.evening > now.waiting or now.sales != now.parcels:
        return False
    if await bus.outbox.list(limit=1):
        return False
    for name in NAMES:
        if (await bus.projections.status(name)).lag_events:
            return False
    statuses = await saga_statuses(bus)
    running = {order for order, status in statuses.items() if status not in ENDED}
    async with bus.transaction() as tx:
        rows = await tx.sql.fetch("SELECT order_id FROM open_orders")
    return len(statuses) == now.placed and running <= {row["order_id"] for row in rows}


async def _until(
    bus: EventBus, true: Callable[[EventBus, Progress], Awaitable[bool]], tell: Tell
) -> None:
    """Wait for the services; give up when nothing moves any more."""
    before, since = await progress(bus), time.monotonic()
    while not await true(bus, before):
        await asyncio.sleep(LOOK_SECONDS)
        now = await progress(bus)
        tell(now)
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            raise TimeoutError(f"nothing moves any more: {now}")
