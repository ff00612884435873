"""The stash: inputs that came before their saga."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Collection, Sequence
from datetime import timedelta

from eventbus.sqlite.rows import MESSAGE, NEVER, Row, headers_text, message_of
from eventbus.sqlite.saga_rows import delay
from eventbus.storage.sagas import Correlation, Stashed

_COLUMNS = f"id, saga_type, name, value, ttl, {MESSAGE}"
_STASH = f"""
INSERT INTO eventbus_saga_stash (saga_type, name, value, identity, ttl, expires_at, {MESSAGE})
VALUES (?, ?, ?, ?, ?, coalesce(eventbus_now() + ?, {NEVER}), {", ".join("?" * 7)})
ON CONFLICT (saga_type, name, value, identity) DO NOTHING"""
_DRAIN = f"""
DELETE FROM eventbus_saga_stash WHERE saga_type = ? AND name = ? AND value = ?
RETURNING {_COLUMNS}"""
_EXPIRE = f"""
DELETE FROM eventbus_saga_stash WHERE id IN (
  SELECT id FROM eventbus_saga_stash WHERE expires_at <= eventbus_now()
   ORDER BY expires_at LIMIT ?)
RETURNING {_COLUMNS}"""


def stash(connection: sqlite3.Connection, inputs: Sequence[Stashed]) -> None:
    """A message that waits already waits once."""
    connection.executemany(_STASH, [_row(one) for one in inputs])


def drain(connection: sqlite3.Connection, keys: Collection[Correlation]) -> list[Stashed]:
    """Of all keys together, in the order of arrival."""
    rows: list[Row] = []
    for key in keys:
        rows += connection.execute(_DRAIN, (key.saga, key.name, key.value)).fetchall()
    return [_stashed_of(row) for row in sorted(rows, key=lambda row: row[0])]


def expire(connection: sqlite3.Connection, limit: int) -> list[Stashed]:
    """Delete what nobody came for."""
    rows = connection.execute(_EXPIRE, (limit,)).fetchall()
    return [_stashed_of(row) for row in sorted(rows, key=lambda row: row[0])]


def _row(one: Stashed) -> Row:
    message, ttl = one.message, delay(one.ttl)
    return (
        one.key.saga,
        one.key.name,
        one.key.value,
        str(message.identity),
        ttl,
        ttl,
        message.id,
        message.type,
        message.source,
        message.topic,
        message.key,
        headers_text(message.headers),
        message.payload,
    )


def _stashed_of(row: Row) -> Stashed:
    return Stashed(
        key=Correlation(row[1], row[2], row[3]),
        message=message_of(row[5:]),
        ttl=None if row[4] is None else timedelta(milliseconds=row[4]),
        row=row[0],
    )
