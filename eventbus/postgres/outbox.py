"""Messages that wait for the broker (S2): flushed last, read by state, settled in batches."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Collection, Sequence
from datetime import timedelta
from random import randrange
from typing import Any

from eventbus.message import Message
from eventbus.postgres.fate import WITNESS
from eventbus.postgres.rows import clean, outgoing_columns, outgoing_of
from eventbus.postgres.session import Session
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing

# Limits are literals: a generic plan takes LIMIT $n for a tenth of the input and sorts it all.
# A few sizes only, for each is a prepared statement of its own.
_SIZES = (1, 100, 500, 1000, 2000, 5000, 11_000)
_PER_PART = 200

_FLUSH = """
WITH ins AS (
  INSERT INTO {schema}.outbox (part, message_id, type, source, topic, key, headers, payload)
  SELECT p, i, t, s, tp, k, h, b FROM (
    SELECT * FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[],
                         $6::text[], $7::bytea[], $8::bytea[])
      WITH ORDINALITY u(p, i, t, s, tp, k, h, b, o) ORDER BY o) q RETURNING 1)
SELECT {witness} FROM (SELECT count(*) FROM ins) written"""
_SCHEDULE = """
WITH ins AS (
  INSERT INTO {schema}.outbox_scheduled
         (part, due_at, message_id, type, source, topic, key, headers, payload)
  SELECT p, statement_timestamp() + d, i, t, s, tp, k, h, b FROM (
    SELECT * FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[],
                         $6::text[], $7::bytea[], $8::bytea[], $9::interval[])
      WITH ORDINALITY u(p, i, t, s, tp, k, h, b, d, o) ORDER BY o) q RETURNING 1)
SELECT {witness} FROM (SELECT count(*) FROM ins) written"""
# One statement for all leased partitions, fair, no lock; rows behind a deferred or failed row of
# their key are left out.
_READ = """
SELECT o.* FROM unnest($1::smallint[]) p(part) CROSS JOIN LATERAL (
  SELECT b.part, b.id, b.message_id, b.type, b.source, b.topic, b.key, b.headers, b.payload,
         b.attempts, statement_timestamp() - b.created_at AS age
    FROM {schema}.outbox b
   WHERE b.part = p.part
     AND b.id > (SELECT CASE WHEN $2::bigint = 0 THEN 0 WHEN EXISTS (
           SELECT 1 FROM unnest($1) q(part) CROSS JOIN LATERAL (
             SELECT 1 FROM {schema}.outbox f WHERE f.part = q.part AND f.due_at IS NOT NULL
              ORDER BY f.key, f.id LIMIT 1) x) THEN 0 ELSE $2 END)
     AND b.id NOT IN (SELECT x FROM unnest($3::bigint[]) x)
     AND (b.due_at IS NULL OR b.due_at <= statement_timestamp())
     AND NOT EXISTS (SELECT 1 FROM {schema}.outbox d
                      WHERE d.part = b.part AND d.key = b.key AND d.id < b.id
                        AND d.due_at > statement_timestamp())
   ORDER BY b.id LIMIT {per_part}) o LIMIT {limit}"""
_ANY_DUE = """
SELECT 1 FROM unnest($1::smallint[]) p(part) CROSS JOIN LATERAL (
  SELECT 1 FROM {schema}.outbox_scheduled b
   WHERE b.part = p.part AND b.due_at <= statement_timestamp() LIMIT 1) x LIMIT 1"""
# By their places: a join would read all of the outbox where statistics say that it is empty. A row
# that an operator changes in this moment is at another place then, and goes out once more.
# Ids stand by partition, from `low` to `high`: an array of four for each row took longer to send.
_OURS = """ARRAY(
  SELECT x.ctid
    FROM unnest($1::smallint[], $2::text[], $3::bigint[], $4::int[], $5::int[])
           e(part, lease, epoch, low, high)
    JOIN {schema}.leases l ON l.name = e.lease AND l.epoch = e.epoch
   CROSS JOIN LATERAL unnest(($6::bigint[])[e.low:e.high]) d(id)
   CROSS JOIN LATERAL (SELECT b.ctid FROM {schema}.outbox b
                        WHERE b.part = e.part AND b.id = d.id OFFSET 0) x)"""
_SETTLE = f"DELETE FROM {{schema}}.outbox WHERE ctid = ANY ({_OURS})"
_DEFER = f"""
UPDATE {{schema}}.outbox
   SET attempts = attempts + 1, error = $8,
       due_at = coalesce(statement_timestamp() + $7::interval, 'infinity')
 WHERE ctid = ANY ({_OURS})"""
# Scheduled rows that are due, by the owner of their partition; they get their outbox id now.
_PROMOTE = """
WITH due AS (
  DELETE FROM {schema}.outbox_scheduled WHERE ctid = ANY (ARRAY(
    SELECT x.ctid FROM unnest($1::smallint[], $2::text[], $3::bigint[]) e(part, lease, epoch)
      JOIN {schema}.leases l ON l.name = e.lease AND l.epoch = e.epoch
      CROSS JOIN LATERAL (
        SELECT b.ctid FROM {schema}.outbox_scheduled b
         WHERE b.part = e.part AND b.due_at <= statement_timestamp()
         ORDER BY b.due_at, b.id LIMIT 100) x LIMIT {limit})) RETURNING *)
INSERT INTO {schema}.outbox
       (part, message_id, type, source, topic, key, headers, payload, created_at)
SELECT part, message_id, type, source, topic, key, headers, payload, created_at
  FROM (SELECT * FROM due ORDER BY due_at, id) q"""


class PostgresOutbox:
    """Fenced by the epochs of partition leases."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, messages: Sequence[Message], *, delay: timedelta | None = None) -> None:
        """Buffer them; the transaction's last statements write them."""
        later = delay if delay is not None and delay > timedelta() else None
        self._session.outgoing += [(message, later) for message in messages]
        self._session.hints.add("outbox")

    async def promote(self, leases: Collection[Lease], *, limit: int) -> int:
        """Delayed ones that are due join the queue."""
        held = list(leases)
        parts = [_number(lease) for lease in held]
        if not await self._look(_ANY_DUE, parts, where="outbox.promote"):
            return 0  # nearly always: a look needs no transaction
        arrays = (parts, [lease.name for lease in held], [lease.epoch for lease in held])
        return await self._changed(_PROMOTE, *arrays, where="outbox.promote", limit=_size(limit))

    async def read(
        self,
        leases: Collection[Lease],
        *,
        limit: int,
        after: int = 0,
        besides: Collection[int] = (),
    ) -> Sequence[Outgoing]:
        """What is due, per partition in row order; partitions from anywhere, so none starves."""
        size = _size(limit)
        parts = sorted(_number(lease) for lease in leases)
        start = randrange(len(parts)) if parts else 0  # noqa: S311 - fairness is no secret
        rows = await self._look(
            _READ,
            parts[start:] + parts[:start],
            after,
            list(besides),
            where="outbox.read",
            limit=size,
            per_part=_PER_PART if size <= 2000 else size,
        )
        return [outgoing_of(row) for row in rows[:limit]]

    async def settle(self, leases: Collection[Lease], sent: Sequence[Outgoing]) -> int:
        """Delete what is confirmed and still ours."""
        arrays = _ours(leases, sent)
        return await self._changed(_SETTLE, *arrays, where="outbox.settle")

    async def defer(
        self,
        leases: Collection[Lease],
        rows: Sequence[Outgoing],
        *,
        delay: timedelta | None,
        error: str,
    ) -> int:
        """Hold rows back, and with them the later ones of their keys."""
        arrays = _ours(leases, rows)
        return await self._changed(_DEFER, *arrays, delay, clean(error), where="outbox.defer")

    async def _look(self, statement: str, *args: Any, where: str, **limits: int) -> list[Any]:
        sql = statement.format(schema=self._session.schema, **limits)
        return await self._session.look(sql, *args, where=where, role="control")

    async def _changed(self, statement: str, *args: Any, where: str, limit: int = 0) -> int:
        sql = statement.format(schema=self._session.schema, limit=limit)
        tag = await self._session.execute(sql, *args, where=where, role="control")
        return int(tag.rpartition(" ")[2])


async def flush(session: Session) -> None:
    """Write what was buffered: the last statements, so ids follow the order of commits per key."""
    session.wrote = True
    now = [message for message, delay in session.outgoing if delay is None]
    later = [(message, delay) for message, delay in session.outgoing if delay is not None]
    session.ids += [message.id for message, _ in session.outgoing]
    if now:
        sql = _FLUSH.format(schema=session.schema, witness=WITNESS)
        rows = await session.fetch(sql, *outgoing_columns(now), where="outbox.add")
        session.testify(rows[0])
    if later:
        sql = _SCHEDULE.format(schema=session.schema, witness=WITNESS)
        columns = outgoing_columns([message for message, _ in later])
        delays = [delay for _, delay in later]
        rows = await session.fetch(sql, *columns, delays, where="outbox.add")
        session.testify(rows[0])
    session.outgoing.clear()


def _ours(leases: Collection[Lease], rows: Sequence[Outgoing]) -> tuple[list[Any], ...]:
    """Partition, lease, epoch, first and last place of its ids; and the ids."""
    of: dict[int, list[int]] = {}
    for row in rows:
        of.setdefault(row.partition, []).append(row.row)
    columns: tuple[list[Any], ...] = ([], [], [], [], [], [])
    for lease in leases:
        number = _number(lease)
        if ids := of.pop(number, None):
            low = len(columns[5]) + 1
            columns[5].extend(ids)
            place = (number, lease.name, lease.epoch, low, len(columns[5]))
            for column, value in zip(columns[:5], place, strict=True):
                column.append(value)
    return columns


def _number(lease: Lease) -> int:
    return int(lease.name.rpartition("/")[2])


def _size(limit: int) -> int:
    return next((size for size in _SIZES if size >= limit), limit)
