"""The event log: appends decided by the stream's head row, and a feed that only grows (S5)."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from eventbus.errors import ConcurrencyError
from eventbus.sqlite.appends import decided, head_of_stream
from eventbus.sqlite.audit import AUDIT
from eventbus.sqlite.feed import events_between, read_bound
from eventbus.sqlite.recorded import RECORDED, recorded_of, stamp_of
from eventbus.sqlite.rows import Row, outgoing_row, prefixed
from eventbus.sqlite.session import Session
from eventbus.storage.events import (
    EVERYTHING,
    Append,
    Appended,
    Closed,
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
    audited_stream,
    checked,
    going_out,
    head_of,
    metadata_bytes,
    no_metadata,
    number_of_state,
    seen_by,
    window_end,
)

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
_TRUNCATE = """
UPDATE eventbus_streams SET kept_from = :before
 WHERE tenant = :tenant AND name = :name AND state < 2
   AND kept_from < :before AND :before <= version + 1"""
_CLOSE = """
UPDATE eventbus_streams SET state = :state
 WHERE tenant = :tenant AND name = :name AND state < :state"""
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
                decided(connection, append, tenant)
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
            head = head_of_stream(connection, tenant, stream)
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
            bound = self._below_own(read_bound(connection)).bound
            end = window_end(after, bound, upto)
            if end <= after:
                return FeedPage(events=(), read_to=after, bound=bound)
            events = events_between(connection, after, end, only, limit)
            read_to = end if len(events) < limit else events[-1].position
            return FeedPage(events=events, read_to=read_to, bound=bound)

        return await self._session.run("events.read_all", read)

    async def read_bound(self) -> ReadBound:
        """The end of the log; below what this transaction appended."""
        return self._below_own(await self._session.run("events.read_bound", read_bound))

    async def holders(self) -> Sequence[Holder]:
        """Nobody: there is one writer."""
        return ()

    async def truncate(
        self, stream: str, *, before: int, tenant: str = "", actor: str = "", reason: str = ""
    ) -> bool:
        """Reads of the stream begin at version `before`; what is kept already stays."""
        values = {"tenant": tenant, "name": stream, "before": before}
        cut = await self._change("events.truncate", _TRUNCATE, values)
        if cut:
            told = audited_stream(stream, tenant, before=before)
            await self._change("events.truncate", AUDIT, ("truncate", told, 1, actor, reason))
        return cut

    async def head(self, stream: str, *, tenant: str = "") -> StreamHead | None:
        """How a stream stands."""

        def head(connection: sqlite3.Connection) -> StreamHead | None:
            row = connection.execute(_STANDS, (tenant, stream)).fetchone()
            return None if row is None else head_of(*row)

        return await self._session.run("events.head", head)

    async def note(self, stream: str, metadata: Mapping[str, str], *, tenant: str = "") -> None:
        """Replace the metadata of a stream."""
        data = metadata_bytes(stream, metadata)
        if not await self._change("events.note", _NOTE, (data, tenant, stream)):
            raise no_metadata(stream, NO_STREAM)

    async def close(
        self,
        stream: str,
        *,
        state: Closed,
        tenant: str = "",
        actor: str = "",
        reason: str = "",
    ) -> bool:
        """Take no more events; tombstoned, it cannot be read either."""
        where = "events.close"
        values = {"tenant": tenant, "name": stream, "state": number_of_state(state)}
        if not await self._change(where, _CLOSE, values):
            return False
        if state == "tombstoned":
            await self._change(where, _UNNOTED, (tenant, stream))
        told = audited_stream(stream, tenant)
        await self._change(where, AUDIT, (state, told, 1, actor, reason))
        return True

    def _below_own(self, found: ReadBound) -> ReadBound:
        """What this transaction appended is not in the feed yet."""
        first = self._session.appended_after
        return found if first is None else replace(found, bound=min(found.bound, Position(first)))

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

    async def _change(self, where: str, statement: str, values: Row | Mapping[str, object]) -> bool:
        """Whether it changed a row."""

        def change(connection: sqlite3.Connection) -> bool:
            return connection.execute(statement, values).rowcount > 0

        return await self._session.run(where, change)


def _snapshot_of(row: Row) -> Snapshot:
    return Snapshot(
        kind=row[0], schema_hash=row[1], version=row[2], position=Position(row[3]), state=row[4]
    )
