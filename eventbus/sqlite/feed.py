"""The feed of all streams: how far it goes, and a piece of it."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3

from eventbus.sqlite.recorded import RECORDED, recorded_of
from eventbus.sqlite.rows import json_list
from eventbus.storage.events import Filter, Position, ReadBound, RecordedMessage

_BOUND = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'eventbus_events'"
_FEED = f"""
SELECT {RECORDED} FROM eventbus_events
 WHERE position > :after AND position <= :end
   AND (:types IS NULL OR type IN (SELECT value FROM json_each(:types)))
   AND (:tenant IS NULL OR tenant = :tenant)
   AND (:category IS NULL OR substr(stream, 1, instr(stream || '-', '-') - 1) = :category)
   AND (:streams IS NULL OR stream IN (SELECT value FROM json_each(:streams)))
   AND (:of IS NULL OR stream_id % :of = :number)
 ORDER BY position LIMIT :limit"""


def read_bound(connection: sqlite3.Connection) -> ReadBound:
    """The head: one writer, so what is committed is whole."""
    head = head_of_feed(connection)
    return ReadBound(bound=head, head=head, server_started=None)


def head_of_feed(connection: sqlite3.Connection) -> Position:
    """The highest position that was ever given, whether its event still stands or not."""
    return Position(connection.execute(_BOUND).fetchone()[0])


def events_between(
    connection: sqlite3.Connection, after: Position, upto: Position, only: Filter, limit: int
) -> list[RecordedMessage]:
    """At most `limit` events behind a position, up to another one, that a filter lets through."""
    values = {
        "after": after,
        "end": upto,
        "types": json_list(only.types) if only.types else None,
        "tenant": only.tenant,
        "category": only.category,
        "streams": json_list(only.streams) if only.streams else None,
        "number": only.share[0] if only.share else None,
        "of": only.share[1] if only.share else None,
        "limit": limit,
    }
    return [recorded_of(row) for row in connection.execute(_FEED, values)]
