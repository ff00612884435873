"""Instances: found by their keys, started, locked."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from eventbus.postgres.saga_rows import RECORD, STEP, columns, in_order, record_of, step_of
from eventbus.postgres.session import Session, only_read_committed
from eventbus.storage.saga_verdicts import another_digest
from eventbus.storage.sagas import (
    Correlation,
    DefinitionRow,
    Fired,
    SagaRecord,
    SagaStart,
    StepRow,
)

_REGISTER = """
INSERT INTO {schema}.saga_definition (saga_type, version, digest, graph)
SELECT DISTINCT ON (t COLLATE "C", v) t, v, d, g
  FROM unnest($1::text[], $2::int[], $3::bytea[], $4::bytea[]) u(t, v, d, g)
 ORDER BY t COLLATE "C", v ON CONFLICT DO NOTHING"""
_KNOWN = """
SELECT d.saga_type, d.version, d.digest FROM {schema}.saga_definition d
  JOIN unnest($1::text[], $2::int[]) u(t, v) ON d.saga_type = u.t AND d.version = u.v"""
# Subqueries, so that each key goes by its index whatever the planner thinks of their number.
_FIND = """
SELECT o, CASE WHEN n = '' THEN (
           SELECT s.saga_id FROM {schema}.saga s WHERE s.saga_type = t AND s.business_key = v)
         ELSE (
           SELECT c.saga_id FROM {schema}.saga_correlation c
            WHERE c.saga_type = t AND c.name = n AND c.value = v) END AS saga_id
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY u(t, n, v, o)"""
_LOCK_KEYS = r"""
SELECT pg_advisory_xact_lock(k) FROM (
  SELECT DISTINCT {schema}.lock_key(
           3, hashtextextended(concat_ws(E'\x1f', t, n, v), 0) & 17592186044415) AS k
    FROM unnest($1::text[], $2::text[], $3::text[]) u(t, n, v) ORDER BY k) s"""
_START = """
INSERT INTO {schema}.saga (saga_id, saga_type, business_key, def_version, def_digest, status,
  data, data_version, version, created_at, updated_at, status_since)
SELECT i, t, k, v, g, 'running', b, v, 0, statement_timestamp(), statement_timestamp(),
       statement_timestamp()
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::bytea[], $6::bytea[])
       WITH ORDINALITY u(i, t, k, v, g, b, o)
 ORDER BY t COLLATE "C", k COLLATE "C", o
ON CONFLICT (saga_type, business_key) DO NOTHING RETURNING saga_id"""
# Two statements: a join inside the locking one reads the steps as they were before the wait.
# Row by row: `= ANY` reads all of a table that statistics take for a small one.
_LOCK = f"""
SELECT s.*, statement_timestamp() AS now
  FROM (SELECT i FROM unnest($1::uuid[]) i ORDER BY i) u CROSS JOIN LATERAL (
    SELECT {RECORD} FROM {{schema}}.saga WHERE saga_id = u.i FOR NO KEY UPDATE) s"""
_STEPS = f"""
SELECT s.* FROM unnest($1::uuid[]) u(i) CROSS JOIN LATERAL (
  SELECT saga_id, {STEP} FROM {{schema}}.saga_step
   WHERE saga_id = u.i ORDER BY seq, phase OFFSET 0) s"""


async def register(session: Session, definitions: Sequence[DefinitionRow]) -> None:
    """Insert, then look who stands: one that was registered meanwhile is seen too."""
    rows = [(one.saga, one.version, one.digest, one.graph) for one in definitions]
    names = columns(rows, 4)
    async with session.savepoint():
        await _fetch(session, _REGISTER, *names, where="sagas.register")
        known = await _fetch(session, _KNOWN, *names[:2], where="sagas.register")
        digests = {(row["saga_type"], row["version"]): row["digest"] for row in known}
        for one in definitions:
            if digests[one.saga, one.version] != one.digest:
                raise another_digest(one)
    session.wrote = True


async def find(session: Session, keys: Collection[Correlation]) -> dict[Correlation, UUID]:
    """The business key has no name."""
    asked = list(dict.fromkeys(keys))
    if not asked:
        return {}
    sql = _FIND.format(schema=session.schema)
    rows = await session.look(sql, *_key_columns(asked), where="sagas.find")
    return {asked[row["o"] - 1]: row["saga_id"] for row in rows if row["saga_id"] is not None}


async def lock_keys(session: Session, keys: Collection[Correlation]) -> None:
    """In the order of the locks' numbers: two batches that share keys never wait in a circle."""
    await only_read_committed(session, "sagas.lock_keys")
    if keys:
        await _fetch(session, _LOCK_KEYS, *_key_columns(keys), where="sagas.lock_keys")


async def start(session: Session, starts: Sequence[SagaStart]) -> frozenset[UUID]:
    """Sorted by key; of two with one key the first is new."""
    if not starts:
        return frozenset()
    rows = [
        (one.saga_id, one.saga, one.key, one.definition, one.digest, one.data) for one in starts
    ]
    new = await _fetch(session, _START, *columns(rows, 6), where="sagas.start")
    session.wrote = True
    return frozenset(row["saga_id"] for row in new)


async def lock(session: Session, ids: Collection[UUID]) -> list[SagaRecord]:
    """Lock rows in the order of ids, then read what stands of their steps."""
    await only_read_committed(session, "sagas.lock")
    if not ids:
        return []
    rows = await _fetch(session, _LOCK, in_order(list(ids)), where="sagas.lock")
    return await with_steps(session, rows, {})


async def with_steps(
    session: Session, rows: Sequence[Any], fired: Mapping[UUID, Sequence[Fired]]
) -> list[SagaRecord]:
    """The records of rows that are locked, each with its steps."""
    if not rows:
        return []
    steps: defaultdict[UUID, list[StepRow]] = defaultdict(list)
    ids = [row["saga_id"] for row in rows]
    for row in await _fetch(session, _STEPS, ids, where="sagas.lock"):
        steps[row["saga_id"]].append(step_of(row))
    return [record_of(row, steps[row["saga_id"]], fired.get(row["saga_id"], ())) for row in rows]


def _key_columns(keys: Collection[Correlation]) -> list[list[Any]]:
    return columns([(key.saga, key.name, key.value) for key in keys], 3)


async def _fetch(session: Session, statement: str, *args: Any, where: str) -> list[Any]:
    return await session.fetch(statement.format(schema=session.schema), *args, where=where)
