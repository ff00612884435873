"""Timers: fired with the transition that wanted them, instance first."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from eventbus.postgres.saga_instances import with_steps
from eventbus.postgres.saga_rows import RECORD, columns
from eventbus.postgres.session import Session, only_read_committed
from eventbus.storage.sagas import Fired, SagaRecord

WINDOW = 400  # due timers of one definition that are looked through

_NAMED = ", ".join(f"i.{column}" for column in RECORD.split(", "))
# A window for each definition: due timers of versions that this worker lacks fill none of ours.
_LOCK_DUE = f"""
WITH due AS MATERIALIZED (
  SELECT DISTINCT d.saga_id FROM unnest($1::text[], $2::int[]) t(saga_type, def_version),
         LATERAL (SELECT x.saga_id FROM {{schema}}.saga_timer x
                   WHERE x.saga_type = t.saga_type AND x.def_version = t.def_version
                     AND x.due_at <= statement_timestamp()
                   ORDER BY x.due_at LIMIT {WINDOW}) d)
SELECT {_NAMED}, statement_timestamp() AS now
  FROM (SELECT saga_id FROM due ORDER BY saga_id) d CROSS JOIN LATERAL (
    SELECT i.* FROM {{schema}}.saga i
     WHERE i.saga_id = d.saga_id FOR NO KEY UPDATE OF i SKIP LOCKED) i
 WHERE NOT i.paused AND i.status NOT IN ('completed', 'compensated') LIMIT {{limit}}"""
_FIRE = """
DELETE FROM {schema}.saga_timer WHERE ctid = ANY (ARRAY(
  SELECT t.place FROM unnest($1::uuid[]) u(i) CROSS JOIN LATERAL (
    SELECT ctid AS place, due_at FROM {schema}.saga_timer WHERE saga_id = u.i OFFSET 0) t
   WHERE t.due_at <= statement_timestamp()))
RETURNING saga_id, due_at, name, epoch"""
_NEXT = """
SELECT min(d.due_at) - statement_timestamp() AS wait
  FROM unnest($1::text[], $2::int[]) t(saga_type, def_version),
       LATERAL (SELECT x.due_at FROM {schema}.saga_timer x
                 WHERE x.saga_type = t.saga_type AND x.def_version = t.def_version
                   AND x.due_at < 'infinity'
                 ORDER BY x.due_at LIMIT 1) d"""


async def lock_due(
    session: Session, definitions: Collection[tuple[str, int]], *, limit: int
) -> list[SagaRecord]:
    """Lock sagas that nobody holds, then delete what is due of them; busy ones wait a round."""
    await only_read_committed(session, "sagas.lock_due")
    sql = _LOCK_DUE.format(schema=session.schema, limit=int(limit))
    rows = await session.fetch(sql, *_pairs(definitions), where="sagas.lock_due")
    if not rows:
        return []
    fired = await _fire(session, [row["saga_id"] for row in rows])
    # gone or armed again since we looked: nothing to do
    return await with_steps(session, [row for row in rows if row["saga_id"] in fired], fired)


async def _fire(session: Session, ids: list[UUID]) -> dict[UUID, list[Fired]]:
    sql = _FIRE.format(schema=session.schema)
    rows = await session.fetch(sql, ids, where="sagas.lock_due")
    session.wrote = True
    fired: defaultdict[UUID, list[Fired]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["due_at"], row["name"])):
        fired[row["saga_id"]].append(Fired(row["name"], row["epoch"]))
    return fired


async def next_due(session: Session, definitions: Collection[tuple[str, int]]) -> timedelta | None:
    """Timers of paused sagas are due never."""
    sql = _NEXT.format(schema=session.schema)
    rows = await session.look(sql, *_pairs(definitions), where="sagas.next_due")
    wait: timedelta | None = rows[0]["wait"]
    return None if wait is None else max(wait, timedelta())


def _pairs(definitions: Collection[tuple[str, int]]) -> list[list[Any]]:
    return columns(sorted(set(definitions)), 2)
