"""What operators look at: sagas, timers, journals; nothing is locked."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Collection
from uuid import UUID

from eventbus.postgres.session import Session
from eventbus.storage.sagas import (
    ArmedTimer,
    InFlight,
    JournalEntry,
    Journalled,
    SagaQuery,
    SagaSummary,
)

_AT_STEP = """LATERAL (
  SELECT (SELECT x.name FROM {schema}.saga_step x
           WHERE x.saga_id = s.saga_id AND x.status IN ('ready', 'dispatched', 'unknown', 'failed')
           ORDER BY x.seq DESC, x.phase DESC LIMIT 1) AS step) p"""
_LOOK = (
    """
SELECT s.saga_id, s.saga_type, s.business_key, s.def_version, s.def_digest, s.status, s.paused,
  s.intent, s.state_name, p.step, s.error, s.version,
  statement_timestamp() - s.created_at AS age, statement_timestamp() - s.status_since AS in_status
  FROM {schema}.saga s, """
    + _AT_STEP
    + """
 WHERE ($1::text IS NULL OR s.saga_type = $1) AND ($2::text IS NULL OR s.business_key = $2)
   AND ($3::text IS NULL OR s.status = $3)
   AND ($4::interval IS NULL OR s.status_since <= statement_timestamp() - $4)
   AND ($5::uuid[] IS NULL OR s.saga_id = ANY($5)) AND ($6::text IS NULL OR p.step = $6)
 ORDER BY s.status_since, s.saga_id LIMIT $7"""
)
_TIMERS = """
SELECT t.saga_id, t.saga_type, s.business_key, t.name,
  CASE WHEN isfinite(t.due_at) THEN t.due_at - statement_timestamp() END AS due_in
  FROM {schema}.saga_timer t JOIN {schema}.saga s USING (saga_id)
 WHERE ($1::uuid[] IS NULL OR t.saga_id = ANY($1))
   AND (NOT $2::boolean OR t.due_at <= statement_timestamp())
 ORDER BY t.due_at, t.saga_id, t.name LIMIT $3"""
_JOURNAL = """
SELECT at, version, input_kind, input_id, from_status, to_status, detail, actor, worker
  FROM {schema}.saga_journal WHERE saga_id = $1 ORDER BY version"""
_IN_FLIGHT = (
    """
SELECT s.*, d.graph FROM (
  SELECT s.saga_type, s.def_version, s.def_digest, s.state_name, p.step, s.status,
         count(*) AS amount
    FROM {schema}.saga s, """
    + _AT_STEP
    + """
   WHERE s.finished_at IS NULL
   GROUP BY 1, 2, 3, 4, 5, 6) s
  LEFT JOIN {schema}.saga_definition d
    ON d.saga_type = s.saga_type AND d.version = s.def_version AND d.digest = s.def_digest
 ORDER BY s.saga_type, s.def_version, s.state_name, s.step, s.status"""
)


async def look(session: Session, query: SagaQuery, *, limit: int) -> list[SagaSummary]:
    """Those longest in their status first."""
    values = (
        query.saga,
        query.key,
        query.status,
        query.older_than,
        list(query.ids) or None,
        query.step,
        limit,
    )
    rows = await session.look(_LOOK.format(schema=session.schema), *values, where="sagas.look")
    return [
        SagaSummary(
            saga_id=row["saga_id"],
            saga=row["saga_type"],
            key=row["business_key"],
            definition=row["def_version"],
            digest=row["def_digest"],
            status=row["status"],
            paused=row["paused"],
            intent=row["intent"],
            state_name=row["state_name"],
            step=row["step"],
            error=row["error"],
            version=row["version"],
            age=row["age"],
            in_status=row["in_status"],
        )
        for row in rows
    ]


async def timers(
    session: Session, ids: Collection[UUID], *, due: bool, limit: int
) -> list[ArmedTimer]:
    """The next one first; those of paused sagas are due never."""
    rows = await session.look(
        _TIMERS.format(schema=session.schema), list(ids) or None, due, limit, where="sagas.timers"
    )
    return [
        ArmedTimer(
            saga_id=row["saga_id"],
            saga=row["saga_type"],
            key=row["business_key"],
            name=row["name"],
            due_in=row["due_in"],
        )
        for row in rows
    ]


async def journal(session: Session, saga_id: UUID) -> list[Journalled]:
    """In order of the transitions."""
    rows = await session.look(
        _JOURNAL.format(schema=session.schema), saga_id, where="sagas.journal"
    )
    return [
        Journalled(
            row["at"],
            JournalEntry(
                version=row["version"],
                input_kind=row["input_kind"],
                input_id=row["input_id"],
                from_status=row["from_status"],
                to_status=row["to_status"],
                detail=row["detail"],
                actor=row["actor"],
                worker=row["worker"],
            ),
        )
        for row in rows
    ]


async def in_flight(session: Session) -> list[InFlight]:
    """By type, version, state, step and status."""
    rows = await session.look(_IN_FLIGHT.format(schema=session.schema), where="sagas.in_flight")
    return [
        InFlight(
            saga=row["saga_type"],
            definition=row["def_version"],
            digest=row["def_digest"],
            graph=row["graph"],
            state=row["state_name"],
            step=row["step"],
            status=row["status"],
            count=row["amount"],
        )
        for row in rows
    ]
