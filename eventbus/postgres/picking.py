"""Which rows a selection means, and how an operator reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from eventbus.inspection import Selection, no_place, unusable
from eventbus.postgres.session import Session

COUNT_UP_TO = 10_000

HEAD = """(
  SELECT min(h.seq) FROM {schema}.parked h WHERE h.group_name = p.group_name AND h.key = p.key)"""
# A dead letter is the head of a dead key; what waits behind it is only parked.
DEAD_LETTERS = f"""
 FROM {{schema}}.parked_keys k JOIN {{schema}}.parked p
  ON p.group_name = k.group_name AND p.key = k.key
 WHERE k.state = 1 AND p.seq = {HEAD}"""
PARKED_ROWS = f"""
 FROM {{schema}}.parked p LEFT JOIN {{schema}}.parked_keys k
  ON k.group_name = p.group_name AND k.key = p.key
 WHERE NOT (coalesce(k.state, 0) = 1 AND p.seq = {HEAD})"""
OUTBOX_ROWS = " FROM (SELECT *, false AS scheduled FROM {schema}.outbox) p WHERE true"
_SCHEDULED_ROWS = """
 FROM (SELECT *, 0 AS attempts, NULL AS error, true AS scheduled FROM {schema}.outbox_scheduled) p
 WHERE true"""
SOURCES = {"outbox": OUTBOX_ROWS, "parked": PARKED_ROWS, "dead-letter": DEAD_LETTERS}

_PARKED_FIELDS = """
SELECT p.message_id AS id, p.type,
  CASE WHEN left(p.key, 1) = chr(1) THEN p.message_key ELSE p.key END AS key,
  p.group_name AS "group", p.topic, p.source, p.attempts,
  extract(epoch FROM statement_timestamp() - p.parked_at)::float8 AS age_seconds,
  CASE WHEN k.state = 0 THEN greatest(0.0,
    extract(epoch FROM k.due_at - statement_timestamp()))::float8 END AS due_in_seconds,
  CASE WHEN p.reason IS NULL THEN 'queued' WHEN k.state = 1 THEN 'dead' ELSE 'retrying' END
    AS state,
  p.reason, p.code, p.error_type, p.error, p.fingerprint, p.origin,
  (SELECT count(*) FROM {schema}.parked w
    WHERE w.group_name = p.group_name AND w.key = p.key AND w.seq > p.seq) AS waiting,
  p.payload, p.headers"""
_OUTBOX_FIELDS = """
SELECT p.message_id AS id, p.type, p.key, NULL AS "group", p.topic, p.source, p.attempts,
  extract(epoch FROM statement_timestamp() - p.created_at)::float8 AS age_seconds,
  CASE WHEN p.due_at IS NULL THEN 0.0::float8
       WHEN p.due_at < 'infinity' THEN greatest(0.0,
         extract(epoch FROM p.due_at - statement_timestamp()))::float8 END AS due_in_seconds,
  CASE WHEN p.scheduled THEN 'scheduled' WHEN p.due_at IS NULL THEN 'pending'
       WHEN p.due_at < 'infinity' THEN 'deferred' ELSE 'failed' END AS state,
  NULL AS reason, NULL AS code, NULL AS error_type, p.error, NULL AS fingerprint, NULL AS origin,
  0::bigint AS waiting,
  p.payload, p.headers"""
# one scan for all held keys: the outbox has no index by key, which every insert would pay for
_OF_KEYS = """
SELECT key, count(*) AS n FROM {schema}.outbox WHERE key = ANY($1::text[]) GROUP BY key"""
# a group with order="none" parks under keys of its own: the message's key is meant then
_CONDITIONS = {
    "group": "p.group_name = $0",
    "key": "(p.key = $0 OR p.message_key = $0)",
    "type": "p.type = $0",
    "fingerprint": "p.fingerprint = $0",
}

Row = Mapping[str, Any]


async def find(session: Session, what: Selection, *, limit: int) -> list[dict[str, Any]]:
    """Rows by the names that the command line shows, oldest first; scheduled ones last."""
    if what.place not in SOURCES:
        raise no_place(what)
    if what.place != "outbox":
        return await _rows(session, what, _PARKED_FIELDS + SOURCES[what.place], "p.seq", limit)
    rows = await _rows(session, what, _OUTBOX_FIELDS + OUTBOX_ROWS, "p.id", limit)
    held = {row["key"]: row for row in rows if row["state"] in {"deferred", "failed"}}
    held.pop(None, None)
    if held:
        sql = _OF_KEYS.format(schema=session.schema)
        for found in await session.look(sql, sorted(held), where="find", role="control"):
            held[found["key"]]["waiting"] = found["n"] - 1
    rest = limit - len(rows)
    return rows + await _rows(session, what, _OUTBOX_FIELDS + _SCHEDULED_ROWS, "p.id", rest)


async def _rows(
    session: Session, what: Selection, query: str, order: str, limit: int
) -> list[dict[str, Any]]:
    conditions, values = narrowed(what)
    sql = f"{query} {conditions} ORDER BY {order} LIMIT {int(limit)}".format(schema=session.schema)
    rows = await session.look(sql, *values, where="inspection.find", role="control")
    return [dict(row) | {"headers": orjson.loads(row["headers"])} for row in rows]


async def picked(session: Session, what: Selection, *, limit: int | None) -> Sequence[Row]:
    """`seq, group_name, key` of parked messages or dead letters, oldest first, their keys locked.

    Keys are locked in their order, then read again: what one waited for may have changed them.
    """
    conditions, values = narrowed(what)
    query = (
        f"SELECT p.seq, p.group_name, p.key {SOURCES[what.place]} {conditions}"
        f" ORDER BY p.seq LIMIT {'ALL' if limit is None else int(limit)}"
    ).format(schema=session.schema)
    before = await session.fetch(query, *values, where="inspection", role="control")
    if not before:
        return []
    await session.fetch(_LOCK.format(schema=session.schema), *_keys(before), where="inspection")
    locked = {(row["group_name"], row["key"]) for row in before}
    after = await session.fetch(query, *values, where="inspection")
    return [row for row in after if (row["group_name"], row["key"]) in locked]


_LOCK = """
SELECT 1 FROM {schema}.parked_keys k JOIN unnest($1::text[], $2::text[]) u(g, key)
    ON k.group_name = u.g AND k.key = u.key
 ORDER BY k.group_name, k.key FOR UPDATE OF k"""


def _keys(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    pairs = sorted({(row["group_name"], row["key"]) for row in rows})
    return [group for group, _ in pairs], [key for _, key in pairs]


def narrowed(what: Selection) -> tuple[str, list[Any]]:
    """Further conditions, to stand behind a WHERE whose rows are called `p`; values from $1.

    Raises:
        ConfigurationError: EB8001, the place does not exist here, or has no such field.
    """
    if what.place not in SOURCES:
        raise no_place(what)
    conditions: list[str] = []
    values: list[Any] = []
    if what.ids:
        values.append(sorted(what.ids))
        conditions.append("p.message_id = ANY($1::text[])")
    for name, of_parked in _CONDITIONS.items():
        value = getattr(what, name)
        if value is not None:
            condition = _of_the_outbox(name) if what.place == "outbox" else of_parked
            values.append(value)
            conditions.append(condition.replace("$0", f"${len(values)}"))
    return "".join(f" AND {condition}" for condition in conditions), values


def _of_the_outbox(name: str) -> str:
    if name not in {"key", "type"}:
        raise unusable(f"rows of the outbox have no {name}", "select by ids, key or type")
    return f"p.{name} = $0"
