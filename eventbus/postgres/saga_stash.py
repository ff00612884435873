"""The stash: inputs that came before their saga."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Collection, Sequence
from typing import Any

from eventbus.postgres.rows import headers_bytes
from eventbus.postgres.saga_rows import columns, delay, stashed_of
from eventbus.postgres.session import Session
from eventbus.storage.sagas import Correlation, Stashed

_COLUMNS = (
    "id, saga_type, name, value, message_id, type, source, topic, message_key, headers, payload,"
    " ttl"
)
_STASH = """
INSERT INTO {schema}.saga_stash (saga_type, name, value, message, message_id, type, source, topic,
  message_key, headers, payload, ttl, expires_at)
SELECT st, n, v, m, i, t, s, tp, k, h, b, ttl,
       coalesce(statement_timestamp() + ttl, 'infinity')
  FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[],
                             $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[],
                             $11::bytea[], $12::interval[])
          WITH ORDINALITY u(st, n, v, m, i, t, s, tp, k, h, b, ttl, o) ORDER BY o) u
ON CONFLICT (saga_type, name, value, message) DO NOTHING"""
_DRAIN = f"""
DELETE FROM {{schema}}.saga_stash WHERE id = ANY (ARRAY(
  SELECT d.id FROM unnest($1::text[], $2::text[], $3::text[]) u(t, n, v),
    LATERAL (SELECT x.id FROM {{schema}}.saga_stash x
              WHERE x.saga_type = u.t AND x.name = u.n AND x.value = u.v ORDER BY x.id) d))
RETURNING {_COLUMNS}"""
_EXPIRE = f"""
DELETE FROM {{schema}}.saga_stash WHERE id = ANY (ARRAY(
  SELECT id FROM {{schema}}.saga_stash WHERE expires_at <= statement_timestamp()
   ORDER BY expires_at LIMIT {{limit}} FOR UPDATE SKIP LOCKED))
RETURNING {_COLUMNS}"""


async def stash(session: Session, inputs: Sequence[Stashed]) -> None:
    """A message that waits already waits once."""
    if inputs:
        sql = _STASH.format(schema=session.schema)
        rows = [_row(one) for one in inputs]
        await session.execute(sql, *columns(rows, 12), where="sagas.stash")
        session.wrote = True


async def drain(session: Session, keys: Collection[Correlation]) -> list[Stashed]:
    """Of all keys together, in the order of arrival."""
    if not keys:
        return []
    named = columns([(key.saga, key.name, key.value) for key in keys], 3)
    return await _taken(session, _DRAIN.format(schema=session.schema), *named, where="sagas.drain")


async def expire(session: Session, limit: int) -> list[Stashed]:
    """Delete what nobody came for; who drains at this moment has it."""
    sql = _EXPIRE.format(schema=session.schema, limit=int(limit))
    return await _taken(session, sql, where="sagas.sweep")


async def _taken(session: Session, sql: str, *args: Any, where: str) -> list[Stashed]:
    rows = await session.fetch(sql, *args, where=where)
    session.wrote = session.wrote or bool(rows)
    return [stashed_of(row) for row in sorted(rows, key=lambda row: int(row["id"]))]


def _row(one: Stashed) -> Sequence[Any]:
    message = one.message
    return (
        one.key.saga,
        one.key.name,
        one.key.value,
        message.identity,
        message.id,
        message.type,
        message.source,
        message.topic,
        message.key,
        headers_bytes(message.headers),
        message.payload,
        delay(one.ttl),
    )
