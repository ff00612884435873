"""The outbox (S2): buffered to the end of the transaction, read in the order of ids."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import lru_cache

from eventbus.message import Message
from eventbus.sqlite.leases import held
from eventbus.sqlite.rows import (
    MESSAGE,
    NEVER,
    OUTGOING,
    Row,
    clean,
    json_list,
    message_of,
    milliseconds,
    outgoing_row,
)
from eventbus.sqlite.session import Session
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import PARTITIONS, Outgoing

_CHUNKS = (64, 16, 4, 1)  # rows per insert: few texts to prepare, few steps to take
_SCHEDULE = (
    f"INSERT INTO eventbus_outbox_scheduled ({OUTGOING}, created_at, due_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, eventbus_now(), eventbus_now() + ?)"
)
_READ = f"""
SELECT part, id, attempts, eventbus_now() - created_at, {MESSAGE} FROM eventbus_outbox b
 WHERE b.id > CASE WHEN EXISTS (SELECT 1 FROM eventbus_outbox WHERE due_at IS NOT NULL)
                   THEN 0 ELSE ? END
   AND (b.due_at IS NULL OR b.due_at <= eventbus_now())
   AND (b.key IS NULL OR NOT EXISTS (
     SELECT 1 FROM eventbus_outbox d
      WHERE d.key = b.key AND d.id < b.id AND d.due_at > eventbus_now()))"""
_READ_ALL = f"{_READ} ORDER BY b.id LIMIT ?"
_READ_SOME = f"{_READ} AND b.part IN (SELECT value FROM json_each(?)) ORDER BY b.id LIMIT ?"
_DUE = """
SELECT json_group_array(id) FROM (
  SELECT id FROM eventbus_outbox_scheduled
   WHERE due_at <= eventbus_now() AND part IN (SELECT value FROM json_each(?))
   ORDER BY due_at, id LIMIT ?)"""
_PROMOTE = f"""
INSERT INTO eventbus_outbox ({OUTGOING}, created_at)
SELECT {OUTGOING}, created_at FROM eventbus_outbox_scheduled
 WHERE id IN (SELECT value FROM json_each(?)) ORDER BY due_at, id"""
_PROMOTED = "DELETE FROM eventbus_outbox_scheduled WHERE id IN (SELECT value FROM json_each(?))"
_SETTLE = "DELETE FROM eventbus_outbox WHERE id IN (SELECT value FROM json_each(?))"
_DEFER = """
UPDATE eventbus_outbox SET attempts = attempts + 1, error = ?,
  due_at = CASE WHEN ? IS NULL THEN ? ELSE eventbus_now() + ? END
 WHERE id IN (SELECT value FROM json_each(?))"""


class SqliteOutbox:
    """One process is one relay: it holds all leases and needs no order of partitions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, messages: Sequence[Message], *, delay: timedelta | None = None) -> None:
        """Buffer them; `flush` writes them last."""
        await self._session.step()
        rows = [outgoing_row(message) for message in messages]
        if delay is None or delay <= timedelta(0):
            self._session.buffer.now += rows
        else:
            wait = milliseconds(delay)
            self._session.buffer.later += [(row, wait) for row in rows]

    async def promote(self, leases: Collection[Lease], *, limit: int) -> int:
        """Give scheduled rows that are due their place in the queue."""

        def promote(connection: sqlite3.Connection) -> int:
            parts = json_list(sorted(_partitions(held(connection, leases))))
            due = connection.execute(_DUE, (parts, limit)).fetchone()[0]
            if due == "[]":
                return 0
            connection.execute(_PROMOTE, (due,))
            return connection.execute(_PROMOTED, (due,)).rowcount

        return await self._session.run("outbox.promote", promote)

    async def read(
        self,
        leases: Collection[Lease],
        *,
        limit: int,
        after: int = 0,
        besides: Collection[int] = (),
    ) -> Sequence[Outgoing]:
        """What is due, in the order of ids, so in the order of each key."""
        parts, most = _partitions(leases), limit + len(besides)

        def read(connection: sqlite3.Connection) -> list[Row]:
            if len(parts) == PARTITIONS:
                found = connection.execute(_READ_ALL, (after, most)).fetchall()
            else:
                some = (after, json_list(sorted(parts)), most)
                found = connection.execute(_READ_SOME, some).fetchall()
            return [row for row in found if row[1] not in besides][:limit]

        return [
            Outgoing(
                partition=row[0],
                row=row[1],
                attempts=row[2],
                age=timedelta(milliseconds=row[3]),
                message=message_of(row[4:]),
            )
            for row in await self._session.run("outbox.read", read)
        ]

    async def settle(self, leases: Collection[Lease], sent: Sequence[Outgoing]) -> int:
        """Delete what was confirmed and is still ours."""

        def settle(connection: sqlite3.Connection) -> int:
            return connection.execute(_SETTLE, (_ours(connection, leases, sent),)).rowcount

        return await self._session.run("outbox.settle", settle)

    async def defer(
        self,
        leases: Collection[Lease],
        rows: Sequence[Outgoing],
        *,
        delay: timedelta | None,
        error: str,
    ) -> int:
        """Hold rows back; `read` leaves the later ones of their keys out."""
        wait = None if delay is None else milliseconds(delay)

        def defer(connection: sqlite3.Connection) -> int:
            ours = _ours(connection, leases, rows)
            values = (clean(error), wait, NEVER, wait, ours)
            return connection.execute(_DEFER, values).rowcount

        return await self._session.run("outbox.defer", defer)


def flush(connection: sqlite3.Connection, session: Session) -> None:
    """The last statements of a transaction: ids follow the order of commits, per key."""
    rows = session.buffer.now
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            values = [value for row in rows[start : start + size] for value in row]
            last = connection.execute(_insert(size), values).lastrowid
            start += size
    if rows:
        session.hints.add("outbox")
        session.witness = (
            "SELECT 1 FROM eventbus_outbox WHERE id = ? AND message_id = ?",
            (last, rows[-1][1]),
        )
    if session.buffer.later:
        connection.executemany(_SCHEDULE, [(*row, wait) for row, wait in session.buffer.later])


@lru_cache(maxsize=len(_CHUNKS))
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, eventbus_now())"] * rows)
    return f"INSERT INTO eventbus_outbox ({OUTGOING}, created_at) VALUES {values}"


def _partitions(leases: Collection[Lease]) -> set[int]:
    return {int(lease.name.rpartition("/")[2]) for lease in leases}


def _ours(
    connection: sqlite3.Connection, leases: Collection[Lease], rows: Sequence[Outgoing]
) -> str:
    parts = _partitions(held(connection, leases))
    return json_list([row.row for row in rows if row.partition in parts])
