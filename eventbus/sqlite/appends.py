"""One append: decided by the head of its stream, recorded under it (S5)."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from typing import NamedTuple

from eventbus.sqlite.feed import head_of_feed
from eventbus.sqlite.recorded import EVENT, event_row
from eventbus.storage.events import Append, Appended, Position
from eventbus.storage.merging import Verdict
from eventbus.storage.verdicts import closed, conflict, seen_by

RETRIES = 1000  # the versions in which an append without a version looks for its own ids

_HEAD = """
SELECT stream_id, version, state, kept_from FROM eventbus_streams WHERE tenant = ? AND name = ?"""
_CREATE = "INSERT INTO eventbus_streams (tenant, name, version) VALUES (?, ?, ?)"
_ADVANCE = "UPDATE eventbus_streams SET version = ? WHERE stream_id = ?"
_RECORD = (
    f"INSERT INTO eventbus_events ({EVENT}, recorded_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, eventbus_now())"
)
_SAME = """
SELECT identity, position FROM eventbus_events
 WHERE stream_id = ? AND version > ? AND version <= ? ORDER BY version"""
_FIRST = """
SELECT version - 1 FROM eventbus_events
 WHERE stream_id = ? AND version > ? AND identity = ? ORDER BY version DESC LIMIT 1"""


class Head(NamedTuple):
    """A row of streams."""

    stream_id: int
    version: int
    state: int
    kept_from: int


def head_of_stream(connection: sqlite3.Connection, tenant: str, stream: str) -> Head | None:
    """Where a stream stands; None: it never had an event."""
    row = connection.execute(_HEAD, (tenant, stream)).fetchone()
    return None if row is None else Head(*row)


def decided(connection: sqlite3.Connection, append: Append, tenant: str) -> Verdict:
    """Write it, or say why not: of one writer each append finds the head as it stays."""
    head = head_of_stream(connection, tenant, append.stream)
    if head is not None and head.state:
        return closed(append.stream)
    if (again := _repeated(connection, append, head)) is not None:
        return again
    version = 0 if head is None else head.version
    if not _as_expected(append, version):
        return conflict(append, version)
    return _record(connection, append, tenant, head)


def _as_expected(append: Append, version: int) -> bool:
    match append.expected:
        case "any":
            return True
        case "absent":
            return version == 0
        case "present":
            return version > 0
        case exact:
            return version == exact


def _repeated(connection: sqlite3.Connection, append: Append, head: Head | None) -> Appended | None:
    """The same ids stand there, all of them and in this order: a retry."""
    if head is None:
        return None
    ids = [str(message.identity) for message in append.messages]
    if append.expected in {"any", "present"}:
        values = (head.stream_id, head.version - RETRIES, ids[0])
        row = connection.execute(_FIRST, values).fetchone()
        if row is None:
            return None
        after = int(row[0])
    else:
        after = seen_by(append)
    version = after + len(ids)
    rows = connection.execute(_SAME, (head.stream_id, after, version)).fetchall()
    if [row[0] for row in rows] != ids:
        return None
    return Appended(version=version, position=Position(rows[-1][1]), repeated=True)


def _record(
    connection: sqlite3.Connection, append: Append, tenant: str, head: Head | None
) -> Appended:
    count = len(append.messages)
    if head is None:
        version = 0
        cursor = connection.execute(_CREATE, (tenant, append.stream, count))
        stream_id = cursor.lastrowid or 0
    else:
        stream_id, version = head.stream_id, head.version
        connection.execute(_ADVANCE, (version + count, stream_id))
    connection.executemany(
        _RECORD,
        [
            event_row(message, stream_id, number, tenant, append.stream)
            for number, message in enumerate(append.messages, version + 1)
        ],
    )
    return Appended(version=version + count, position=head_of_feed(connection), repeated=False)
