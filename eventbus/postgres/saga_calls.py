"""Call steps: claimed for a time, under a fence that grows with every claim."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from eventbus.postgres.saga_rows import CALL, call_of, columns, delay
from eventbus.postgres.session import Session
from eventbus.storage.sagas import Call

_CLAIM = f"""
UPDATE {{schema}}.saga_call SET owner = $4, fence = fence + 1, attempt = attempt + 1,
  due_at = statement_timestamp() + $3::interval
 WHERE effect_id = ANY (ARRAY(
   SELECT d.effect_id FROM unnest($1::text[], $2::int[]) t(saga_type, def_version),
     LATERAL (SELECT x.effect_id FROM {{schema}}.saga_call x
               WHERE x.saga_type = t.saga_type AND x.def_version = t.def_version
                 AND x.due_at <= statement_timestamp()
               ORDER BY x.due_at LIMIT {{limit}} FOR UPDATE SKIP LOCKED) d LIMIT {{limit}}))
RETURNING {CALL}"""
_RENEW = """
UPDATE {schema}.saga_call c SET due_at = statement_timestamp() + $3::interval
  FROM unnest($1::uuid[], $2::bigint[]) h(effect_id, fence)
 WHERE c.effect_id = h.effect_id AND c.fence = h.fence RETURNING c.effect_id"""
_FINISH = """
DELETE FROM {schema}.saga_call c
 USING unnest($1::uuid[], $2::bigint[]) h(effect_id, fence)
 WHERE c.effect_id = h.effect_id AND c.fence = h.fence RETURNING c.effect_id"""


async def claim(
    session: Session,
    definitions: Collection[tuple[str, int]],
    *,
    owner: str,
    ttl: timedelta,
    limit: int,
) -> list[Call]:
    """A lease that ended is free: claim and take-over are one statement."""
    if limit < 1 or not definitions:
        return []
    sql = _CLAIM.format(schema=session.schema, limit=int(limit))
    pairs = columns(sorted(set(definitions)), 2)
    rows = await session.fetch(sql, *pairs, delay(ttl), owner, where="sagas.claim_calls")
    session.wrote = session.wrote or bool(rows)
    return [call_of(row) for row in rows]


async def renew(session: Session, calls: Sequence[Call], *, ttl: timedelta) -> list[Call]:
    """The fence alone names the owner."""
    return await _ours(session, _RENEW, calls, delay(ttl), where="sagas.renew_calls")


async def finish(session: Session, calls: Sequence[Call]) -> list[Call]:
    """A zombie deletes nothing."""
    return await _ours(session, _FINISH, calls, where="sagas.finish_calls")


async def _ours(
    session: Session, statement: str, calls: Sequence[Call], *args: Any, where: str
) -> list[Call]:
    if not calls:
        return []
    held = columns([(call.effect_id, call.fence) for call in calls], 2)
    sql = statement.format(schema=session.schema)
    rows = await session.fetch(sql, *held, *args, where=where)
    session.wrote = session.wrote or bool(rows)
    ours = {row["effect_id"] for row in rows}
    return [call for call in calls if call.effect_id in ours]
