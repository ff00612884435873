"""What operators may change: one function per verb, each inside its transaction."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from eventbus.inspection import (
    Request,
    Selection,
    Verb,
    act_of,
    only_one,
    paused_name,
    payload_of,
)
from eventbus.postgres.picking import HEAD, SOURCES, Row, narrowed, picked
from eventbus.postgres.rows import KEPT
from eventbus.postgres.session import Session

_RETRY = """
WITH chosen AS (
  SELECT p.part, p.id FROM {schema}.outbox p WHERE p.due_at > statement_timestamp() %s
   ORDER BY p.id LIMIT %s FOR UPDATE)
UPDATE {schema}.outbox o SET due_at = statement_timestamp(), attempts = 0
  FROM chosen c WHERE o.part = c.part AND o.id = c.id"""
_OF_KEYS = """
  FROM unnest($1::text[], $2::text[]) u(g, key)
 WHERE k.group_name = u.g AND k.key = u.key AND k.state = 0"""
_RELEASE = f"UPDATE {{schema}}.parked_keys k SET due_at = statement_timestamp() {_OF_KEYS}"
_OF_A_SAGA = """EXISTS (
  SELECT 1 FROM {schema}.saga_definition d WHERE d.saga_type = u.g)"""
_BURY = f"UPDATE {{schema}}.parked_keys k SET state = 1 {_OF_KEYS} AND NOT {_OF_A_SAGA}"
# A saga is told of its dead letters, also of those that go: only a worker of its group can do that.
_WISH = f"""
UPDATE {{schema}}.parked p SET reason = 'buried', code = coalesce(p.code, 'EB7070'),
  error_type = coalesce(p.error_type, 'Buried'), fingerprint = coalesce(p.fingerprint, 'buried'),
  error = coalesce(p.error, 'not tried: an operator buried it')
  FROM unnest($1::text[], $2::text[]) u(g, key)
 WHERE p.group_name = u.g AND p.key = u.key AND p.seq = {HEAD} AND {_OF_A_SAGA}"""
_WISHED = f"""
UPDATE {{schema}}.parked_keys k SET due_at = statement_timestamp() {_OF_KEYS} AND {_OF_A_SAGA}"""
_UNTRIED = """
UPDATE {schema}.parked p SET attempts = 0,
  reason = CASE reason WHEN 'buried' THEN 'failed' ELSE reason END
  FROM unnest($1::text[], $2::text[], $3::bigint[]) u(g, key, seq)
 WHERE p.group_name = u.g AND p.key = u.key AND p.seq = u.seq"""
_REVIVE = """
UPDATE {schema}.parked_keys k SET state = 0, due_at = statement_timestamp() + u.wait
  FROM unnest($1::text[], $2::text[], $3::interval[]) u(g, key, wait)
 WHERE k.group_name = u.g AND k.key = u.key"""
_KEEP = f"""
INSERT INTO {{schema}}.discarded ({KEPT}, audit_id, verb)
SELECT {KEPT}, $4, $5 FROM {{schema}}.parked p WHERE EXISTS (
  SELECT 1 FROM unnest($1::text[], $2::text[], $3::bigint[]) u(g, k, s)
   WHERE p.group_name = u.g AND p.key = u.k AND p.seq = u.s)"""
_DISCARD = f"""
DELETE FROM {{schema}}.parked p USING unnest($1::text[], $2::text[], $3::bigint[]) u(g, key, seq)
 WHERE p.group_name = u.g AND p.key = u.key AND p.seq = u.seq AND NOT {_OF_A_SAGA}"""
_UNWANTED = f"""
UPDATE {{schema}}.parked p SET reason = 'discarded'
  FROM unnest($1::text[], $2::text[], $3::bigint[]) u(g, key, seq)
 WHERE p.group_name = u.g AND p.key = u.key AND p.seq = u.seq AND {_OF_A_SAGA}"""
_DISCARDED = """
SELECT p.seq, p.group_name, p.key, p.message, p.audit_id FROM {schema}.discarded p
 WHERE p.verb = 'discard' AND NOT EXISTS (
   SELECT 1 FROM {schema}.parked x WHERE x.group_name = p.group_name AND x.message = p.message)
   %s ORDER BY p.seq LIMIT %s FOR UPDATE"""
# The key first: its row locked, nobody frees it before the message stands behind it again.
_HOLD_AGAIN = """
INSERT INTO {schema}.parked_keys (group_name, key, state, due_at)
SELECT DISTINCT g COLLATE "C", key COLLATE "C", 1, statement_timestamp()
  FROM unnest($1::text[], $2::text[]) u(g, key) ORDER BY 1, 2
ON CONFLICT (group_name, key) DO UPDATE SET state = 1"""
_RESTORE = f"""
WITH gone AS (
  DELETE FROM {{schema}}.discarded d
   USING unnest($1::text[], $2::uuid[], $3::bigint[]) u(g, message, audit)
   WHERE d.group_name = u.g AND d.message = u.message AND d.audit_id = u.audit RETURNING d.*)
INSERT INTO {{schema}}.parked ({KEPT}) OVERRIDING SYSTEM VALUE SELECT {KEPT} FROM gone"""
_EDIT = """
UPDATE {schema}.parked SET payload = $4 WHERE group_name = $1 AND key = $2 AND seq = $3"""
_PAUSE = """
INSERT INTO {schema}.leases AS l (name, owner, epoch, until) VALUES ($1, $2, 1, 'infinity')
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = l.epoch + 1, until = 'infinity'
 WHERE l.until <> 'infinity'"""
_RESUME = """
UPDATE {schema}.leases SET until = '-infinity' WHERE name = $1 AND until = 'infinity'"""


Act = Callable[[Session, Request], Awaitable[int]]


def find(verb: Verb, what: Selection) -> Act:
    """The function of a verb at a place.

    Raises:
        ConfigurationError: EB8001, there is none.
    """
    return act_of(_ACTS, verb, what)


async def _retry(session: Session, request: Request) -> int:
    conditions, values = narrowed(request.what)
    return await _changed(session, _RETRY % (conditions, _limit(request)), *values)


async def _release(session: Session, request: Request) -> int:
    return await _changed(session, _RELEASE, *_keys(await _picked(session, request)))


async def _bury(session: Session, request: Request) -> int:
    keys = _keys(await _picked(session, request))
    buried = await _changed(session, _BURY, *keys)
    if not any(keys) or not await _changed(session, _WISH, *keys):
        return buried
    return buried + await _changed(session, _WISHED, *keys)


async def _redrive(session: Session, request: Request) -> int:
    letters = await _picked(session, request)
    await _changed(session, _UNTRIED, *_places(letters))
    gap = 1 / request.rate if request.rate else 0.0
    waits = [timedelta(seconds=n * gap) for n in range(len(letters))]
    return await _changed(session, _REVIVE, *_places(letters)[:2], waits)


async def _discard(session: Session, request: Request) -> int:
    letters = await _picked(session, request)
    await _changed(session, _KEEP, *_places(letters), request.audit, "discard")
    await _changed(session, _DISCARD, *_places(letters))
    await _changed(session, _UNWANTED, *_places(letters))
    await _changed(session, _REVIVE, *_places(letters)[:2], [timedelta()] * len(letters))
    return len(letters)


async def _restore(session: Session, request: Request) -> int:
    conditions, values = narrowed(request.what)
    sql = _DISCARDED % (conditions, _limit(request))
    rows = await session.fetch(
        sql.format(schema=session.schema), *values, where="inspection.restore", role="control"
    )
    groups = [row["group_name"] for row in rows]
    await _changed(session, _HOLD_AGAIN, groups, [row["key"] for row in rows])
    audits = [row["audit_id"] for row in rows]
    return await _changed(session, _RESTORE, groups, [row["message"] for row in rows], audits)


async def _edit(session: Session, request: Request) -> int:
    payload = payload_of(request)
    letter = only_one(await picked(session, request.what, limit=2), request.what)
    await _changed(session, _KEEP, *_places([letter]), request.audit, "edit")
    place = (letter["group_name"], letter["key"], letter["seq"])
    return await _changed(session, _EDIT, *place, payload)


async def _pause(session: Session, request: Request) -> int:
    return await _changed(session, _PAUSE, paused_name(request.what), request.actor)


async def _resume(session: Session, request: Request) -> int:
    return await _changed(session, _RESUME, paused_name(request.what))


async def _picked(session: Session, request: Request) -> Sequence[Row]:
    return await picked(session, request.what, limit=request.limit)


async def _changed(session: Session, statement: str, *args: Any) -> int:
    sql = statement.format(schema=session.schema)
    tag = await session.execute(sql, *args, where="inspection", role="control")
    return int(tag.rpartition(" ")[2])


def _keys(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    pairs = sorted({(row["group_name"], row["key"]) for row in rows})
    return [group for group, _ in pairs], [key for _, key in pairs]


def _places(rows: Sequence[Row]) -> tuple[list[str], list[str], list[int]]:
    return (
        [row["group_name"] for row in rows],
        [row["key"] for row in rows],
        [row["seq"] for row in rows],
    )


def _limit(request: Request) -> str:
    return "ALL" if request.limit is None else str(int(request.limit))


_ACTS: dict[tuple[str, str], Act] = {
    ("outbox", "retry"): _retry,
    ("outbox", "pause"): _pause,
    ("outbox", "resume"): _resume,
    ("parked", "release"): _release,
    ("parked", "bury"): _bury,
    ("parked", "pause"): _pause,
    ("parked", "resume"): _resume,
    ("dead-letter", "redrive"): _redrive,
    ("dead-letter", "discard"): _discard,
    ("dead-letter", "restore"): _restore,
    ("dead-letter", "edit"): _edit,
}
assert SOURCES.keys() == {place for place, _ in _ACTS}  # noqa: S101 - both name the places
