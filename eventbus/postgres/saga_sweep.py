"""What is old: finished sagas with all that hangs on them, and effects."""

from datetime import timedelta
from typing import Any

from eventbus.postgres.saga_rows import delay
from eventbus.postgres.session import Session
from eventbus.storage.sagas import EFFECTS_ARE_KEPT, HELD

_OLD = """
SELECT saga_id, saga_type FROM {schema}.saga
 WHERE finished_at IS NOT NULL AND finished_at <= statement_timestamp() - $1::interval
 ORDER BY finished_at LIMIT {limit} FOR UPDATE SKIP LOCKED"""
# The journal goes by month (retention.py): only what has no month of its own goes here.
_HANGS_ON_IT = ("saga_step", "saga_timer", "saga_call", "saga_correlation", "saga_journal_other")
_FORGET = "DELETE FROM {schema}.{table} WHERE saga_id = ANY($1::uuid[])"
_HELD = """
DELETE FROM {schema}.saga_stash s USING unnest($1::text[], $2::text[]) u(saga, id)
 WHERE s.saga_type = u.saga AND s.name = $3 AND s.value = u.id"""
_SAGAS = """
DELETE FROM {schema}.saga WHERE saga_id = ANY($1::uuid[]) AND finished_at IS NOT NULL
RETURNING saga_id"""
_EFFECTS = """
DELETE FROM {schema}.saga_effect WHERE effect_id = ANY (ARRAY(
  SELECT effect_id FROM {schema}.saga_effect
   WHERE created_at <= statement_timestamp() - $1::interval
   ORDER BY created_at LIMIT {limit} FOR UPDATE SKIP LOCKED))
RETURNING effect_id"""


async def sagas(session: Session, older_than: timedelta, limit: int) -> int:
    """The tombstone of a business key goes with its saga; one that somebody holds stays."""
    old = await _fetch(session, _OLD, delay(older_than), limit=int(limit))
    if not old:
        return 0
    ids = [row["saga_id"] for row in old]
    for table in _HANGS_ON_IT:
        await _fetch(session, _FORGET, ids, table=table)
    types = [row["saga_type"] for row in old]
    await _fetch(session, _HELD, types, [str(one) for one in ids], HELD)
    session.wrote = True
    return len(await _fetch(session, _SAGAS, ids))


async def effects(session: Session, older_than: timedelta, limit: int) -> int:
    """Younger ones answer commands that may still come."""
    age = delay(max(older_than, EFFECTS_ARE_KEPT))
    gone = await _fetch(session, _EFFECTS, age, limit=int(limit))
    session.wrote = session.wrote or bool(gone)
    return len(gone)


async def _fetch(session: Session, statement: str, *args: Any, **parts: Any) -> list[Any]:
    sql = statement.format(schema=session.schema, **parts)
    return await session.fetch(sql, *args, where="sagas.sweep")
