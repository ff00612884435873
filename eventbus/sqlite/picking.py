"""Which rows a selection means, and how an operator reads them."""

import sqlite3
from typing import Any

import orjson

from eventbus.inspection import Selection, no_place, unusable
from eventbus.sqlite.rows import NEVER, Row, json_list

COUNT_UP_TO = 10_000

HEAD = """(
  SELECT min(h.seq) FROM eventbus_parked h WHERE h.group_name = p.group_name AND h.key = p.key)"""
# A dead letter is the head of a dead key; what waits behind it is only parked.
DEAD_LETTERS = (
    """
 FROM eventbus_parked_keys k CROSS JOIN eventbus_parked p
  ON p.group_name = k.group_name AND p.key = k.key
 WHERE k.state = 1 AND p.seq = """
    + HEAD
)
PARKED_ROWS = f"""
 FROM eventbus_parked p LEFT JOIN eventbus_parked_keys k
  ON k.group_name = p.group_name AND k.key = p.key
 WHERE NOT (coalesce(k.state, 0) = 1 AND p.seq = {HEAD})"""
OUTBOX_ROWS = " FROM (SELECT *, 0 AS scheduled FROM eventbus_outbox) p WHERE 1"
_SCHEDULED_ROWS = """
 FROM (SELECT *, 0 AS attempts, NULL AS error, 1 AS scheduled FROM eventbus_outbox_scheduled) p
 WHERE 1"""
SOURCES = {"outbox": OUTBOX_ROWS, "parked": PARKED_ROWS, "dead-letter": DEAD_LETTERS}

_PARKED_FIELDS = """
SELECT p.message_id AS id, p.type,
  CASE WHEN substr(p.key, 1, 1) = char(1) THEN p.message_key ELSE p.key END AS key,
  p.group_name AS "group", p.topic, p.source, p.attempts,
  (eventbus_now() - p.parked_at) / 1000.0 AS age_seconds,
  CASE WHEN k.state = 0 THEN max(0.0, (k.due_at - eventbus_now()) / 1000.0) END AS due_in_seconds,
  CASE WHEN p.reason IS NULL THEN 'queued' WHEN k.state = 1 THEN 'dead' ELSE 'retrying' END
    AS state,
  p.reason, p.code, p.error_type, p.error, p.fingerprint, p.origin,
  (SELECT count(*) FROM eventbus_parked w
    WHERE w.group_name = p.group_name AND w.key = p.key AND w.seq > p.seq) AS waiting,
  p.payload, p.headers"""
_OUTBOX_FIELDS = f"""
SELECT p.message_id AS id, p.type, p.key, NULL AS "group", p.topic, p.source, p.attempts,
  (eventbus_now() - p.created_at) / 1000.0 AS age_seconds,
  CASE WHEN p.due_at IS NULL THEN 0.0
       WHEN p.due_at < {NEVER} THEN max(0.0, (p.due_at - eventbus_now()) / 1000.0) END
    AS due_in_seconds,
  CASE WHEN p.scheduled THEN 'scheduled' WHEN p.due_at IS NULL THEN 'pending'
       WHEN p.due_at < {NEVER} THEN 'deferred' ELSE 'failed' END AS state,
  NULL AS reason, NULL AS code, NULL AS error_type, p.error, NULL AS fingerprint, NULL AS origin,
  0 AS waiting,
  p.payload, p.headers"""
# one scan for all held keys: the outbox has no index by key, which every insert would pay for
_OF_KEYS = """
SELECT key, count(*) FROM eventbus_outbox WHERE key IN (SELECT value FROM json_each(?))
 GROUP BY key"""
# a group with order="none" parks under keys of its own: the message's key is meant then
_CONDITIONS = {
    "group": "p.group_name = ?1",
    "key": "(p.key = ?1 OR p.message_key = ?1)",
    "type": "p.type = ?1",
    "fingerprint": "p.fingerprint = ?1",
}


def find(connection: sqlite3.Connection, what: Selection, *, limit: int) -> list[dict[str, Any]]:
    """Rows by the names that the command line shows, oldest first; scheduled ones last."""
    if what.place not in SOURCES:
        raise no_place(what)
    if what.place != "outbox":
        return _rows(connection, what, _PARKED_FIELDS + SOURCES[what.place], "p.seq", limit)
    rows = _rows(connection, what, _OUTBOX_FIELDS + OUTBOX_ROWS, "p.id", limit)
    held = {row["key"]: row for row in rows if row["state"] in {"deferred", "failed"}}
    held.pop(None, None)
    if held:
        for key, count in connection.execute(_OF_KEYS, (json_list(held),)):
            held[key]["waiting"] = count - 1
    rest = limit - len(rows)
    return rows + _rows(connection, what, _OUTBOX_FIELDS + _SCHEDULED_ROWS, "p.id", rest)


def _rows(
    connection: sqlite3.Connection, what: Selection, query: str, order: str, limit: int
) -> list[dict[str, Any]]:
    conditions, values = narrowed(what)
    query += f" {conditions} ORDER BY {order} LIMIT ?"
    cursor = connection.execute(query, (*values, limit))
    names = [column[0] for column in cursor.description]
    rows = (dict(zip(names, row, strict=True)) for row in cursor)
    return [row | {"headers": orjson.loads(row["headers"])} for row in rows]


def picked(connection: sqlite3.Connection, what: Selection, *, limit: int | None) -> list[Row]:
    """`(seq, group, key)` of parked messages or dead letters, oldest first."""
    conditions, values = narrowed(what)
    query = (
        f"SELECT p.seq, p.group_name, p.key {SOURCES[what.place]} {conditions}"
        " ORDER BY p.seq LIMIT ?"
    )
    return connection.execute(query, (*values, -1 if limit is None else limit)).fetchall()


def narrowed(what: Selection) -> tuple[str, list[Any]]:
    """Further conditions, to stand behind a WHERE whose rows are called `p`.

    Raises:
        ConfigurationError: EB8001, the place does not exist here, or has no such field.
    """
    if what.place not in SOURCES:
        raise no_place(what)
    conditions, values = "", []
    if what.ids:
        conditions += " AND p.message_id IN (SELECT value FROM json_each(?))"
        values.append(json_list(sorted(what.ids)))
    for name, of_parked in _CONDITIONS.items():
        value = getattr(what, name)
        if value is None:
            continue
        condition = _of_the_outbox(name) if what.place == "outbox" else of_parked
        conditions += f" AND {condition.replace('?1', '?')}"
        values += [value] * condition.count("?1")
    return conditions, values


def _of_the_outbox(name: str) -> str:
    if name not in {"key", "type"}:
        raise unusable(f"rows of the outbox have no {name}", "select by ids, key or type")
    return f"p.{name} = ?1"
