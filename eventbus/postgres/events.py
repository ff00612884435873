"""The event log: appends decided by the stream's head row, and a feed that only grows (S5)."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from eventbus.errors import ConcurrencyError
from eventbus.postgres.audit import AUDIT
from eventbus.postgres.fate import WITNESS
from eventbus.postgres.feed import events_between, holders, read_bound
from eventbus.postgres.recorded import StoredEvent, columns, event_columns
from eventbus.postgres.session import Session, only_read_committed
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
from eventbus.storage.verdicts import (
    NO_STREAM,
    audited_stream,
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

_EXPECTED = {"absent": -1, "any": -2, "present": -3}
_ARGUMENTS = ", ".join(f"${number}" for number in range(1, 12))
_APPEND = f"SELECT a.*, {WITNESS} FROM {{schema}}.append({_ARGUMENTS}) a"
_LOAD = f"SELECT {columns()} FROM {{schema}}.load($1, $2, $3, $4)"
_STREAM = f"""
SELECT {columns("e")} FROM {{schema}}.streams s JOIN {{schema}}.events e USING (stream_id)
 WHERE s.tenant = $1 AND s.name = $2 AND s.state < 2 AND e.position > s.floor_pos
   AND e.version >= s.kept_from AND e.version > $3
   AND ($4::bigint IS NULL OR e.version < $4)
   AND ($5::timestamptz IS NULL OR e.recorded_at <= $5)
 ORDER BY e.version {{direction}} LIMIT {{limit}}"""
_SNAPSHOT = """
INSERT INTO {schema}.snapshots AS n (stream_id, kind, schema_hash, version, position, data)
SELECT stream_id, $3, $4, $5, $6, $7 FROM {schema}.streams
 WHERE tenant = $1 AND name = $2 AND state < 2
ON CONFLICT (stream_id, kind) DO UPDATE SET
  schema_hash = excluded.schema_hash, version = excluded.version, position = excluded.position,
  data = excluded.data, at = excluded.at
WHERE n.version < excluded.version OR n.schema_hash <> excluded.schema_hash"""
_TRUNCATE = """
UPDATE {schema}.streams SET kept_from = $3
 WHERE tenant = $1 AND name = $2 AND state < 2 AND kept_from < $3 AND $3 <= version + 1"""
_CLOSE = """
UPDATE {schema}.streams SET state = $3 WHERE tenant = $1 AND name = $2 AND state < $3"""
_HEAD = """
SELECT s.version, s.state, s.kept_from, m.data
  FROM {schema}.streams s LEFT JOIN {schema}.stream_metadata m USING (stream_id)
 WHERE s.tenant = $1 AND s.name = $2"""
_UNNOTED = """
DELETE FROM {schema}.stream_metadata WHERE stream_id IN (
  SELECT stream_id FROM {schema}.streams WHERE tenant = $1 AND name = $2)"""
_NOTE = """
INSERT INTO {schema}.stream_metadata (stream_id, data)
SELECT stream_id, $3 FROM {schema}.streams WHERE tenant = $1 AND name = $2 AND state < 2
ON CONFLICT (stream_id) DO UPDATE SET data = excluded.data, noted_at = excluded.noted_at"""


class PostgresEvents:
    """Streams and the feed, within a transaction that is READ COMMITTED."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def append(self, append: Append, *, conflicting: bool = False) -> Appended:
        """Write the events, and buffer what is to be published; a retry by the same ids is told.

        Raises:
            ConcurrencyError: EB5003, nothing was written; the transaction can go on.
            StreamClosedError: EB5014, as well.
            StorageError: EB5015, the arguments.
        """
        tenant = checked(append)
        await only_read_committed(self._session, "events.append")
        row = await self._written(append, tenant)
        try:
            appended = appended_of(append, row)
        except ConcurrencyError as error:
            if conflicting:
                error.conflicting = await self._winners(append, tenant)
            raise
        if not appended.repeated:
            self._keep(append, row)
        return appended

    async def load(self, stream: str, *, kind: str, schema_hash: bytes, tenant: str = "") -> Loaded:
        """Snapshot and tail; version 0 if there is no stream."""
        rows = await self._events(_LOAD, tenant, stream, kind, schema_hash, where="events.load")
        if not rows:
            return Loaded(snapshot=None, tail=(), version=0)
        kept = [row for row in rows[1:2] if row["type"] is None]
        snapshot = None
        if kept:
            snapshot = Snapshot(
                kind=kind,
                schema_hash=schema_hash,
                version=kept[0]["version"],
                position=Position(kept[0]["position"]),
                state=kept[0]["data"],
            )
        tail = rows[1 + len(kept) :]
        return Loaded(snapshot=snapshot, tail=tail, version=rows[0]["version"])

    async def save_snapshot(self, stream: str, snapshot: Snapshot, *, tenant: str = "") -> None:
        """Keep it, unless a newer one of the same schema hash is there."""
        await self._change(
            _SNAPSHOT,
            tenant,
            stream,
            snapshot.kind,
            snapshot.schema_hash,
            snapshot.version,
            snapshot.position,
            snapshot.state,
            where="events.save_snapshot",
        )

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
        return await self._events(
            _STREAM,
            tenant,
            stream,
            after,
            before,
            until,
            where="events.read_stream",
            direction="DESC" if backwards else "ASC",
            limit=int(limit),
        )

    async def read_all(
        self,
        *,
        after: Position,
        limit: int,
        upto: Position | None = None,
        only: Filter = EVERYTHING,
    ) -> FeedPage:
        """The feed up to the bound: first the bound, then, in a later statement, the events."""
        await only_read_committed(self._session, "events.read_all")
        bound = (await read_bound(self._session)).bound
        end = window_end(after, bound, upto)
        if end <= after:
            return FeedPage(events=(), read_to=after, bound=bound)
        events = await events_between(self._session, after, end, only, limit)
        read_to = end if len(events) < limit else events[-1].position
        return FeedPage(events=events, read_to=read_to, bound=bound)

    async def read_bound(self) -> ReadBound:
        """How far the feed can be read."""
        return await read_bound(self._session)

    async def holders(self) -> Sequence[Holder]:
        """Transactions that have announced positions, the lowest first; at most 3."""
        return await holders(self._session)

    async def truncate(
        self, stream: str, *, before: int, tenant: str = "", actor: str = "", reason: str = ""
    ) -> bool:
        """Reads of the stream begin at version `before`; what is kept already stays."""
        cut = await self._change(_TRUNCATE, tenant, stream, before, where="events.truncate")
        if cut:
            told = audited_stream(stream, tenant, before=before)
            await self._change(AUDIT, "truncate", told, 1, actor, reason, where="events.truncate")
        return cut

    async def head(self, stream: str, *, tenant: str = "") -> StreamHead | None:
        """How a stream stands."""
        sql = _HEAD.format(schema=self._session.schema)
        rows = await self._session.look(sql, tenant, stream, where="events.head")
        return head_of(*rows[0]) if rows else None

    async def note(self, stream: str, metadata: Mapping[str, str], *, tenant: str = "") -> None:
        """Replace the metadata of a stream."""
        data = metadata_bytes(stream, metadata)
        if not await self._change(_NOTE, tenant, stream, data, where="events.note"):
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
        where, number = "events.close", number_of_state(state)
        if not await self._change(_CLOSE, tenant, stream, number, where=where):
            return False
        if state == "tombstoned":
            await self._change(_UNNOTED, tenant, stream, where=where)
        told = audited_stream(stream, tenant)
        await self._change(AUDIT, state, told, 1, actor, reason, where=where)
        return True

    async def _written(self, append: Append, tenant: str) -> Any:
        rows = await self._session.fetch(
            _APPEND.format(schema=self._session.schema),
            tenant,
            append.stream,
            category_of(append),
            number_of(append),
            *event_columns(append.messages),
            where="events.append",
        )
        return rows[0]

    def _keep(self, append: Append, row: Any) -> None:
        session = self._session
        session.wrote = True
        session.testify(row)
        session.ids += [message.id for message in append.messages]
        session.hints.add("events")
        if append.publish:
            leaving = going_out(append, row["version"])
            session.outgoing += [(message, None) for message in leaving]
            session.hints.add("outbox")

    async def _winners(self, append: Append, tenant: str) -> Sequence[RecordedMessage]:
        """What stands there instead: we have waited for the winner, so it is visible."""
        after = seen_by(append)
        return await self.read_stream(append.stream, after=after, tenant=tenant)

    async def _events(self, statement: str, *args: Any, where: str, **parts: Any) -> list[Any]:
        sql = statement.format(schema=self._session.schema, **parts)
        return await self._session.look(sql, *args, where=where, rows_as=StoredEvent)

    async def _change(self, statement: str, *args: Any, where: str) -> bool:
        """Whether it changed a row."""
        sql = statement.format(schema=self._session.schema)
        tag = await self._session.execute(sql, *args, where=where)
        self._session.wrote = True
        return not tag.endswith(" 0")


def appended_of(append: Append, row: Any) -> Appended:
    """What the head row decided.

    Raises:
        ConcurrencyError: EB5003.
        StreamClosedError: EB5014.
    """
    if row["status"] == "closed":
        raise closed(append.stream)
    if row["status"] == "conflict":
        raise conflict(append, row["version"])
    return Appended(
        version=row["version"],
        position=Position(row["last_position"]),
        repeated=row["status"] == "repeated",
    )


def category_of(append: Append) -> str:
    """What stands before the first `-`."""
    return append.stream.partition("-")[0]


def number_of(append: Append) -> int:
    """The expected version as the functions of the schema take it."""
    expected = append.expected
    return expected if isinstance(expected, int) else _EXPECTED[expected]
