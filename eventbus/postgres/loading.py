"""Bulk load: heads in one statement, events by COPY, in one transaction."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from eventbus.postgres.events import category_of
from eventbus.postgres.recorded import event_values
from eventbus.postgres.session import Session
from eventbus.storage.events import Append
from eventbus.storage.verdicts import conflict, streams_of

_HEADS = """
INSERT INTO {schema}.streams (tenant, name, category, version, floor_pos)
SELECT t, n, c, v, (SELECT last_value FROM {schema}.position_seq)
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) x(t, n, c, v)
ON CONFLICT (tenant, name) DO NOTHING RETURNING tenant, name, stream_id"""
_VERSION = "SELECT version FROM {schema}.streams WHERE tenant = $1 AND name = $2"
_ENTER = "SELECT {schema}.enter_append()"  # before the first position is drawn
_POSITIONS = """
SELECT ARRAY(SELECT nextval('{schema}.position_seq') FROM generate_series(1, $1::int))"""
_COLUMNS = (
    *("position", "stream_id", "version", "tenant", "stream"),
    *("type", "event_id", "data", "meta", "schema_version", "correlation_id", "causation_id"),
)


async def load(session: Session, appends: Sequence[Append], *, skip: bool) -> int:
    """Write streams that do not exist yet; how many events it were.

    Raises:
        ConcurrencyError: EB5003, one exists, and `skip` is False; the transaction is to be left.
        StorageError: EB5015, the arguments, or a stream is there twice.
    """
    streams = streams_of(appends)
    ids = await _heads(session, streams)
    for stream, append in streams.items():
        if stream not in ids and not skip:
            rows = await session.fetch(
                _VERSION.format(schema=session.schema), *stream, where="load_events"
            )
            raise conflict(append, rows[0]["version"])
    new = [(ids[stream], append) for stream, append in streams.items() if stream in ids]
    amount = sum(len(append.messages) for _, append in new)
    if amount:
        await session.execute(_ENTER.format(schema=session.schema), where="load_events")
        (row,) = await session.fetch(
            _POSITIONS.format(schema=session.schema), amount, where="load_events"
        )
        await _copy(session, _records(new, iter(row[0])))
        session.ids += [message.id for _, append in new for message in append.messages]
    return amount


async def _heads(
    session: Session, streams: dict[tuple[str, str], Append]
) -> dict[tuple[str, str], int]:
    rows = await session.fetch(
        _HEADS.format(schema=session.schema),
        [tenant for tenant, _ in streams],
        [name for _, name in streams],
        [category_of(append) for append in streams.values()],
        [len(append.messages) for append in streams.values()],
        where="load_events",
    )
    return {(row["tenant"], row["name"]): row["stream_id"] for row in rows}


def _records(
    new: Sequence[tuple[int, Append]], positions: Iterator[int]
) -> Iterator[tuple[Any, ...]]:
    """Made while they are sent: the server works meanwhile."""
    for stream_id, append in new:
        tenant, name = append.messages[0].tenant, append.stream
        for version, message in enumerate(append.messages, 1):
            place = (next(positions), stream_id, version, tenant, name)
            yield place + event_values(message)


async def _copy(session: Session, records: Iterator[tuple[Any, ...]]) -> None:
    connection = await session.raw()
    copy = partial(
        connection.copy_records_to_table,
        "events",
        schema_name=session.schema,
        columns=_COLUMNS,
        records=records,
    )
    await session.run(copy, where="load_events")
    session.hints.add("events")
