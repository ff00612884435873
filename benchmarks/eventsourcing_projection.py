"""The projection runner of the `eventsourcing` library, beside ours on the same database.

Set up as its documentation advises: an application, a view that is a tracking recorder, one
transaction for each event in which the row and the place are written. Imported only where it is
installed.
"""

import asyncio
import os
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from eventsourcing.application import (  # type: ignore[import-not-found, unused-ignore]
    Application,
)
from eventsourcing.domain import DomainEvent  # type: ignore[import-not-found, unused-ignore]
from eventsourcing.postgres import (  # type: ignore[import-not-found, unused-ignore]
    PostgresTrackingRecorder,
)
from eventsourcing.projection import (  # type: ignore[import-not-found, unused-ignore]
    Projection,
    ProjectionRunner,
)
from psycopg.sql import SQL  # type: ignore[import-not-found, unused-ignore]

from benchmarks.postgres import World
from eventbus.message import new_id

EVENTS_PER_STREAM = 100
LONG_SECONDS = 200.0


class Sold(DomainEvent):  # type: ignore[misc, unused-ignore]
    order: str
    product: str
    cents: int


class Shop(Application[UUID]):  # type: ignore[misc, unused-ignore]
    """Where the events are."""


class Products(PostgresTrackingRecorder):  # type: ignore[misc, unused-ignore]
    """Four columns, and the place in the same transaction."""

    def __init__(self, datastore: Any, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS peer_products"
                " (product text PRIMARY KEY, sold bigint, cents bigint, last text)"
            )
        )

    def sold(self, event: Any, tracking: Any) -> None:
        """One sale more."""
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                "INSERT INTO peer_products VALUES (%s, 1, %s, %s) ON CONFLICT (product) DO UPDATE"
                " SET sold = peer_products.sold + 1, cents = peer_products.cents + excluded.cents,"
                " last = excluded.last",
                (event.product, event.cents, event.order),
                prepare=True,
            )
            self._insert_tracking(cursor, tracking)


class OfProducts(Projection[Products]):  # type: ignore[misc, unused-ignore]
    name = "products"

    def process_event(self, domain_event: Any, tracking: Any) -> None:
        """Each event is a transaction."""
        self.view.sold(domain_event, tracking)


async def rate_of_runner(world: World, n: int, per_key: int) -> float:
    """Events per second, from its start until the last one is in the view."""
    return await asyncio.to_thread(_rate, world.storage.config.dsn, n, per_key)


def _rate(dsn: str, n: int, per_key: int) -> float:
    env = dict(os.environ) | _environment(dsn)
    shop = Shop(env)
    last = _fill(shop, n, per_key)
    shop.close()
    began = time.perf_counter()
    with ProjectionRunner(
        application_class=Shop, projection_class=OfProducts, view_class=Products, env=env
    ) as runner:
        runner.wait(last, timeout=LONG_SECONDS)
        return n / (time.perf_counter() - began)


def _fill(shop: Any, n: int, per_key: int) -> int:
    last = 0
    for start in range(0, n, EVENTS_PER_STREAM):
        stream = UUID(new_id())
        events = [
            Sold(
                originator_id=stream,
                originator_version=number - start + 1,
                timestamp=Sold.create_timestamp(),
                order=f"order-{number}",
                product=f"product-{number * 7919 % (n // per_key)}",
                cents=number % 1000,
            )
            for number in range(start, start + EVENTS_PER_STREAM)
        ]
        last = shop.events.put(events)[-1].notification.id
    return last


def _environment(dsn: str) -> dict[str, str]:
    url = urlsplit(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": url.path.removeprefix("/"),
        "POSTGRES_HOST": url.hostname or "",
        "POSTGRES_PORT": str(url.port or 5432),
        "POSTGRES_USER": url.username or "",
        "POSTGRES_PASSWORD": url.password or "",
    }
