"""The event log: appends decided by the stream's head row, and a feed that only grows (S5)."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal, NamedTuple

from eventbus.errors import ConcurrencyError
from eventbus.sqlite.recorded import EVENT, RECORDED, event_row, recorded_of, stamp_of
from eventbus.sqlite.rows import Row, json_list, outgoing_row, prefixed
from eventbus.sqlite.session import Session
from eventbus.storage.events import (
    EVERYTHING,
    Append,
    Appended,
    FeedPage,
    Filter,
    Holder,
    Loaded,
    Position,
    ReadBound,
    RecordedMessage,
    Snapshot,
    StreamHead,
)
from eventbus.storage.merging import Verdict
from eventbus.storage.verdicts import (
    NO_STREAM,
    checked,
    closed,
    conflict,
    going_out,
    head_of,
    metadata_bytes,
    no_metadata,
    number_of_state,
    seen_by,
    window_end,
)

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
_STREAM = f"""
SELECT {prefixed(RECORDED, "e")} FROM eventbus_streams s JOIN eventbus_events e USING (stream_id)
 WHERE s.tenant = :tenant AND s.name = :name AND s.state < 2
   AND e.version >= s.kept_from AND e.version > :after
   AND (:before IS NULL OR e.version < :before) AND (:until IS NULL OR e.recorded_at <= :until)
 ORDER BY e.version {{direction}} LIMIT :limit"""
_KEPT = """
SELECT kind, schema_hash, version, position, state FROM eventbus_snapshots
 WHERE stream_id = ? AND kind = ? AND schema_hash = ? AND version <= ? AND version >= ?"""
_TAIL = f"""
SELECT {RECORDED} FROM eventbus_events WHERE stream_id = ? AND version > ? ORDER BY version"""
_SNAPSHOT = """
INSERT INTO eventbus_snapshots AS n (stream_id, kind, schema_hash, version, position, state, at)
SELECT stream_id, ?, ?, ?, ?, ?, eventbus_now() FROM eventbus_streams
 WHERE tenant = ? AND name = ? AND state < 2
ON CONFLICT (stream_id, kind) DO UPDATE SET
  schema_hash = excluded.schema_hash, version = excluded.version, position = excluded.position,
  state = excluded.state, at = excluded.at
WHERE n.version < excluded.version OR n.schema_hash <> excluded.schema_hash"""
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
_TRUNCATE = """
UPDATE eventbus_streams SET kept_from = :before
 WHERE tenant = :tenant AND name = :name AND state < 2
   AND kept_from < :before AND :before <= version + 1"""
_CLOSE = "UPDATE eventbus_streams SET state = max(state, ?) WHERE tenant = ? AND name = ?"

_STANDS = """
SELECT s.version, s.state, s.kept_from, m.data
  FROM eventbus_streams s LEFT JOIN eventbus_stream_metadata m USING (stream_id)
 WHERE s.tenant = ? AND s.name = ?"""
_UNNOTED = """
DELETE FROM eventbus_stream_metadata WHERE stream_id IN (
  SELECT stream_id FROM eventbus_streams WHERE tenant = ? AND name = ?)"""
_NOTE = """
INSERT INTO eventbus_stream_metadata (stream_id, data, noted_at)
SELECT stream_id, ?, eventbus_now() FROM eventbus_streams
 WHERE tenant = ? AND name = ? AND state < 2
ON CONFLICT (stream_id) DO UPDATE SET data = excluded.data, noted_at = excluded.noted_at"""


class _Head(NamedTuple):
    stream_id: int
    version: int
    state: int
    kept_from: int


class SqliteEvents:
    """Streams and the feed, within a transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def append(self, append: Append, *, conflicting: bool = False) -> Appended:
        """Write the events, and buffer what is to be published; a retry by the same ids is told.

        Raises:
            ConcurrencyError: EB5003, nothing was written; the transaction can go on.
            StreamClosedError: EB5014, as well.
            StorageError: EB5015, the arguments.
        """
        (verdict,) = await self.append_all([append])
        if isinstance(verdict, ConcurrencyError) and conflicting:
            after = seen_by(append)
            tenant = checked(append)
            winners = await self.read_stream(append.stream, after=after, tenant=tenant)
            verdict.conflicting = winners
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def append_all(self, appends: Sequence[Append]) -> Sequence[Verdict]:
        """A verdict for each, in one call."""
        tenants = [checked(append) for append in appends]

        def write(connection: sqlite3.Connection) -> list[Verdict]:
            return [
                _decided(connection, append, tenant)
                for append, tenant in zip(appends, tenants, strict=True)
            ]

        verdicts = await self._session.run("events.append", write)
        for append, verdict in zip(appends, verdicts, strict=True):
            if isinstance(verdict, Appended) and not verdict.repeated:
                self._keep(append, verdict)
        return verdicts

    async def load(self, stream: str, *, kind: str, schema_hash: bytes, tenant: str = "") -> Loaded:
        """Snapshot and tail; version 0 if there is no stream."""

        def load(connection: sqlite3.Connection) -> Loaded:
            head = _head(connection, tenant, stream)
            if head is None or head.state == number_of_state("tombstoned"):
                return Loaded(snapshot=None, tail=(), version=0)
            first = head.kept_from - 1
            values = (head.stream_id, kind, schema_hash, head.version, first)
            row = connection.execute(_KEPT, values).fetchone()
            snapshot = None if row is None else _snapshot_of(row)
            after = first if snapshot is None else snapshot.version
            tail = connection.execute(_TAIL, (head.stream_id, after)).fetchall()
            return Loaded(
                snapshot=snapshot, tail=[recorded_of(row) for row in tail], version=head.version
            )

        return await self._session.run("events.load", load)

    async def save_snapshot(self, stream: str, snapshot: Snapshot, *, tenant: str = "") -> None:
        """Keep it, unless a newer one of the same schema hash is there."""
        what = (snapshot.kind, snapshot.schema_hash, snapshot.version, snapshot.position)
        values = (*what, snapshot.state, tenant, stream)
        await self._change("events.save_snapshot", _SNAPSHOT, values)

    async def read_stream(
        self,
        stream: str,
        *,
        after: int = 0,
        before: int | None = None,
        until: datetime | None = None,
        limit: int = 1000,
        backwards: bool = False,
        tenant: str = "",
    ) -> Sequence[RecordedMessage]:
        """Its events with after < version < before, recorded by `until`."""
        statement = _STREAM.format(direction="DESC" if backwards else "ASC")
        values = {
            "tenant": tenant,
            "name": stream,
            "after": after,
            "before": before,
            "until": None if until is None else stamp_of(until),
            "limit": limit,
        }

        def read(connection: sqlite3.Connection) -> list[RecordedMessage]:
            return [recorded_of(row) for row in connection.execute(statement, values)]

        return await self._session.run("events.read_stream", read)

    async def read_all(
        self,
        *,
        after: Position,
        limit: int,
        upto: Position | None = None,
        only: Filter = EVERYTHING,
    ) -> FeedPage:
        """The feed up to the bound; what this transaction appended lies above it."""

        def read(connection: sqlite3.Connection) -> FeedPage:
            bound = head_of_feed(connection)
            if self._session.appended_after is not None:
                bound = min(bound, Position(self._session.appended_after))
            end = window_end(after, bound, upto)
            if end <= after:
                return FeedPage(events=(), read_to=after, bound=bound)
            values = {
                "after": after,
                "end": end,
                "types": json_list(only.types) if only.types else None,
                "tenant": only.tenant,
                "category": only.category,
                "streams": json_list(only.streams) if only.streams else None,
                "number": only.share[0] if only.share else None,
                "of": only.share[1] if only.share else None,
                "limit": limit,
            }
            events = [recorded_of(row) for row in connection.execute(_FEED, values)]
            read_to = end if len(events) < limit else events[-1].position
            return FeedPage(events=events, read_to=read_to, bound=bound)

        return await self._session.run("events.read_all", read)

    async def read_bound(self) -> ReadBound:
        """The end of the log; below what this transaction appended."""
        found = await self._session.run("events.read_bound", read_bound)
        first = self._session.appended_after
        return found if first is None else replace(found, bound=min(found.bound, Position(first)))

    async def holders(self) -> Sequence[Holder]:
        """Nobody: there is one writer."""
        return ()

    async def truncate(self, stream: str, *, before: int, tenant: str = "") -> None:
        """Reads of the stream begin at version `before`; what is kept already stays."""
        await self._change(
            "events.truncate", _TRUNCATE, {"tenant": tenant, "name": stream, "before": before}
        )

    async def head(self, stream: str, *, tenant: str = "") -> StreamHead | None:
        """How a stream stands."""

        def head(connection: sqlite3.Connection) -> StreamHead | None:
            row = connection.execute(_STANDS, (tenant, stream)).fetchone()
            return None if row is None else head_of(*row)

        return await self._session.run("events.head", head)

    async def note(self, stream: str, metadata: Mapping[str, str], *, tenant: str = "") -> None:
        """Replace the metadata of a stream."""
        data = metadata_bytes(stream, metadata)

        def note(connection: sqlite3.Connection) -> int:
            return connection.execute(_NOTE, (data, tenant, stream)).rowcount

        if await self._session.run("events.note", note) != 1:
            raise no_metadata(stream, NO_STREAM)

    async def close(
        self, stream: str, *, state: Literal["archived", "tombstoned"], tenant: str = ""
    ) -> None:
        """Take no more events; tombstoned, it cannot be read either."""
        await self._change("events.close", _CLOSE, (number_of_state(state), tenant, stream))
        if state == "tombstoned":
            await self._change("events.close", _UNNOTED, (tenant, stream))

    def _keep(self, append: Append, appended: Appended) -> None:
        session = self._session
        if session.appended_after is None:
            session.appended_after = appended.position - len(append.messages)
        session.hints.add("events")
        session.buffer.recorded += [
            (message.id, position)
            for position, message in enumerate(
                append.messages, appended.position - len(append.messages) + 1
            )
        ]
        leaving = going_out(append, appended.version)
        session.buffer.now += [outgoing_row(message) for message in leaving]

    async def _change(self, where: str, statement: str, values: Row | Mapping[str, object]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        await self._session.run(where, change)


def read_bound(connection: sqlite3.Connection) -> ReadBound:
    """The head: one writer, so what is committed is whole."""
    head = head_of_feed(connection)
    return ReadBound(bound=head, head=head, server_started=None)


def head_of_feed(connection: sqlite3.Connection) -> Position:
    """The highest position that was ever given, whether its event still stands or not."""
    return Position(connection.execute(_BOUND).fetchone()[0])


def _head(connection: sqlite3.Connection, tenant: str, stream: str) -> _Head | None:
    row = connection.execute(_HEAD, (tenant, stream)).fetchone()
    return None if row is None else _Head(*row)


def _decided(connection: sqlite3.Connection, append: Append, tenant: str) -> Verdict:
    head = _head(connection, tenant, append.stream)
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


def _repeated(
    connection: sqlite3.Connection, append: Append, head: _Head | None
) -> Appended | None:
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
    connection: sqlite3.Connection, append: Append, tenant: str, head: _Head | None
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


def _snapshot_of(row: Row) -> Snapshot:
    return Snapshot(
        kind=row[0], schema_hash=row[1], version=row[2], position=Position(row[3]), state=row[4]
    )
