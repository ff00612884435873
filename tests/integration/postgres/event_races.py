"""Interleavings of appends and readers, step by step; mutants of the event log must fail them.

A writer is held where it has drawn its position and has not written yet, a reader where it asks for
the bound: by a trigger, and by a function, that wait for a lock of the test.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from eventbus.postgres import PostgresStorage
from eventbus.storage.events import Append, FeedPage, Position
from eventbus.testing.conformance.samples import some_message, some_messages, unique
from tests.integration.postgres.races import waiting

GATE = "7, 7"  # two keys: none of ours
_TRIGGER = f"""
CREATE FUNCTION {{schema}}.hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.stream LIKE 'held-%' THEN PERFORM pg_advisory_xact_lock_shared({GATE}); END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON {{schema}}.events
  FOR EACH ROW EXECUTE FUNCTION {{schema}}.hold();
"""
_SLOW_BOUND = f"""
ALTER FUNCTION {{schema}}.read_bound() RENAME TO quick_bound;
CREATE FUNCTION {{schema}}.read_bound(
  OUT bound bigint, OUT head bigint, OUT server_started timestamptz) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared({GATE});
  SELECT * INTO bound, head, server_started FROM {{schema}}.quick_bound();
END $$;
"""
Write = Callable[[PostgresStorage, str], Coroutine[Any, Any, object]]


class EventRaces:
    """Called with two entered storages of one schema, nothing in it."""

    async def an_append_of_one_event_is_waited_for(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        await _read_past(one, other, _one_event)

    async def an_append_of_several_events_is_waited_for(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        await _read_past(one, other, _several_events)

    async def an_append_that_goes_out_is_waited_for(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        await _read_past(one, other, _going_out)

    async def an_append_in_a_transaction_is_waited_for(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        await _read_past(one, other, _in_a_transaction)

    async def a_bulk_load_is_waited_for(self, one: PostgresStorage, other: PostgresStorage) -> None:
        await _read_past(one, other, _loaded)

    async def an_append_is_waited_for_by_one_who_began_to_write_before_it(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        await _read_past(one, other, _several_events, early=True)

    async def what_is_committed_while_a_reader_asks_for_the_bound_is_not_passed_over(
        self, one: PostgresStorage, other: PostgresStorage
    ) -> None:
        async with _gate(one, _SLOW_BOUND) as opened:
            reading = asyncio.create_task(_page(other, Position(1)), name="read:1")
            await waiting(one, for_what="advisory")
            await _one_event(one, "order-1")
            await opened()
            first = await reading
        second = await _page(other, first.read_to)
        found = [event.stream for event in [*first.events, *second.events]]
        assert found == ["order-1"]


async def _read_past(
    one: PostgresStorage, other: PostgresStorage, write: Write, *, early: bool = False
) -> None:
    """A reader meets a later position, committed, while the writer of an earlier one is held."""
    held, free = f"held-{unique('order')}", unique("order")
    async with _gate(one, _TRIGGER) as opened:
        async with other.transaction() as tx:
            if early:
                await tx.sql.execute("SELECT pg_current_xact_id()")
            writing = asyncio.create_task(write(one, held), name="append:1")
            await waiting(other, for_what="advisory")
            await tx.events.append(_append(free, 1))
        first = await _page(one, Position(1))
        await opened()
        await writing
    second = await _page(one, first.read_to)
    events = [*first.events, *second.events]
    versions = [event.version for event in events if event.stream == held]
    assert versions == list(range(1, len(versions) + 1)) != []
    assert [event.stream for event in events].count(free) == 1
    assert [event.position for event in events] == sorted(event.position for event in events)


@asynccontextmanager
async def _gate(
    storage: PostgresStorage, made: str
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Closed until it is opened."""
    async with storage.pools.connecting() as connection:
        await connection.execute(made.format(schema=storage.config.schema))
        await connection.execute(f"SELECT pg_advisory_lock({GATE})")

        async def open_it() -> None:
            await connection.execute("SELECT pg_advisory_unlock_all()")

        try:
            yield open_it
        finally:
            await open_it()


async def _page(storage: PostgresStorage, after: Position) -> FeedPage:
    async with storage.transaction() as tx:
        return await tx.events.read_all(after=after, limit=100)


async def _one_event(storage: PostgresStorage, stream: str) -> None:
    await storage.append(_append(stream, 1))


async def _several_events(storage: PostgresStorage, stream: str) -> None:
    await storage.append(_append(stream, 3))


async def _going_out(storage: PostgresStorage, stream: str) -> None:
    append = _append(stream, 3)
    await storage.append(replace(append, publish=append.messages))


async def _in_a_transaction(storage: PostgresStorage, stream: str) -> None:
    async with storage.transaction() as tx:
        await tx.events.append(_append(stream, 1))


async def _loaded(storage: PostgresStorage, stream: str) -> None:
    await storage.load_events([_append(stream, 3)])


def _append(stream: str, events: int) -> Append:
    messages: Sequence[Any] = some_messages(events) if events > 1 else [some_message(1)]
    return Append(stream=stream, messages=messages, expected="absent")


RACES = [name for name in vars(EventRaces) if not name.startswith("_")]
