"""The `eventsourcing` library on the same database, set up as its documentation advises.

Imported only where it is installed. Its recorder locks the table and notifies in each insert: its
feed has no gaps either, and plain inserts promise less than both.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from eventsourcing.persistence import StoredEvent  # type: ignore[import-not-found, unused-ignore]
from eventsourcing.postgres import (  # type: ignore[import-not-found, unused-ignore]
    PostgresApplicationRecorder,
    PostgresDatastore,
)

from benchmarks.postgres import World, message, timed
from eventbus.message import new_id

PAGE = 1000


def inserted(events: int, *, functions: bool = False) -> Any:
    """So many events of one stream per commit.

    Args:
        events: per commit.
        functions: by the functions that it can put into the database.
    """

    async def work(world: World, n: int) -> None:
        batches = [_stored(events) for _ in range(n // events)]
        recorder = _recorder(world, functions=functions)
        recorder.insert_events(_stored(1))
        async with timed(world):
            for batch in batches:
                recorder.insert_events(batch)

    return work


def read(payload: bytes, model: Any) -> Any:
    """The log in pages of 1,000, decoded into models."""

    async def work(world: World, n: int) -> None:
        recorder = _recorder(world)
        for _ in range(n // PAGE):
            recorder.insert_events(_stored(PAGE, payload))
        found = 0
        async with timed(world):
            while page := recorder.select_notifications(found + 1, PAGE):
                found += len([model.model_validate_json(each.state) for each in page])
        if found != n:
            raise AssertionError(f"{found} events of {n}")

    return work


def _recorder(world: World, *, functions: bool = False) -> Any:
    url = urlsplit(world.storage.config.dsn)
    datastore = PostgresDatastore(
        url.path.removeprefix("/"),
        url.hostname,
        url.port or 5432,
        url.username,
        url.password or "",
        enable_db_functions=functions,
    )
    recorder = PostgresApplicationRecorder(datastore, events_table_name="peer_events")
    recorder.create_table()
    return recorder


def _stored(events: int, payload: bytes | None = None) -> Sequence[Any]:
    stream = UUID(new_id())
    return [
        StoredEvent(stream, number, "bench:order-placed", payload or message(number).payload)
        for number in range(1, events + 1)
    ]
