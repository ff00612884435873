"""What operators may change: one function per verb, each inside its transaction."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Callable, Iterable

from eventbus.inspection import (
    Request,
    Selection,
    Verb,
    act_of,
    only_one,
    paused_name,
    payload_of,
)
from eventbus.sqlite.picking import HEAD, SOURCES, narrowed, picked
from eventbus.sqlite.rows import KEPT, LONG_AGO, NEVER, Row, json_list

_RETRY = """
UPDATE eventbus_outbox SET due_at = eventbus_now(), attempts = 0 WHERE id IN (
  SELECT p.id FROM eventbus_outbox p WHERE p.due_at > eventbus_now() %s ORDER BY p.id LIMIT ?)"""
_RELEASE = """
UPDATE eventbus_parked_keys SET due_at = eventbus_now()
 WHERE group_name = ? AND key = ? AND state = 0"""
_OF_A_SAGA = "EXISTS (SELECT 1 FROM eventbus_saga_definition d WHERE d.saga_type = group_name)"
_BURY = f"""
UPDATE eventbus_parked_keys SET state = 1
 WHERE group_name = ? AND key = ? AND state = 0 AND NOT {_OF_A_SAGA}"""
# A saga is told of its dead letters, also of those that go: only a worker of its group can do that.
_WISH = f"""
UPDATE eventbus_parked AS p SET reason = 'buried', code = coalesce(code, 'EB7070'),
  error_type = coalesce(error_type, 'Buried'), fingerprint = coalesce(fingerprint, 'buried'),
  error = coalesce(error, 'not tried: an operator buried it')
 WHERE group_name = ? AND key = ? AND seq = {HEAD} AND {_OF_A_SAGA}"""
_WISHED = f"""
UPDATE eventbus_parked_keys SET due_at = eventbus_now()
 WHERE group_name = ? AND key = ? AND state = 0 AND {_OF_A_SAGA}"""
_UNTRIED = """
UPDATE eventbus_parked SET attempts = 0,
  reason = CASE reason WHEN 'buried' THEN 'failed' ELSE reason END
 WHERE seq IN (SELECT value FROM json_each(?))"""
_REVIVE = """
UPDATE eventbus_parked_keys SET state = 0, due_at = eventbus_now() + ?
 WHERE group_name = ? AND key = ?"""
_KEEP = f"""
INSERT INTO eventbus_discarded ({KEPT}, audit_id, verb, discarded_at)
SELECT {KEPT}, ?, ?, eventbus_now() FROM eventbus_parked
 WHERE seq IN (SELECT value FROM json_each(?))"""
_DISCARD = f"""
DELETE FROM eventbus_parked
 WHERE seq IN (SELECT value FROM json_each(?)) AND NOT {_OF_A_SAGA}"""
_UNWANTED = f"""
UPDATE eventbus_parked SET reason = 'discarded'
 WHERE seq IN (SELECT value FROM json_each(?)) AND {_OF_A_SAGA}"""
_DISCARDED = """
SELECT p.rowid, p.seq FROM eventbus_discarded p
 WHERE p.verb = 'discard' AND NOT EXISTS (
   SELECT 1 FROM eventbus_parked x WHERE x.group_name = p.group_name AND x.message = p.message)"""
_RESTORE = f"""
INSERT INTO eventbus_parked ({KEPT}) SELECT {KEPT} FROM eventbus_discarded
 WHERE rowid IN (SELECT value FROM json_each(?))"""
_HOLD_AGAIN = """
INSERT INTO eventbus_parked_keys (group_name, key, state, due_at, held_since)
SELECT DISTINCT group_name, key, 1, eventbus_now(), eventbus_now() FROM eventbus_discarded
 WHERE rowid IN (SELECT value FROM json_each(?))
ON CONFLICT DO UPDATE SET state = 1"""
_RESTORED = "DELETE FROM eventbus_discarded WHERE rowid IN (SELECT value FROM json_each(?))"
_EDIT = "UPDATE eventbus_parked SET payload = ? WHERE seq = ?"
_PAUSE = f"""
INSERT INTO eventbus_leases AS l (name, owner, epoch, until) VALUES (?, ?, 1, {NEVER})
ON CONFLICT DO UPDATE SET owner = excluded.owner, epoch = l.epoch + 1, until = excluded.until
 WHERE l.until <> excluded.until"""
_RESUME = f"""
UPDATE eventbus_leases SET until = {LONG_AGO} WHERE name = ? AND until = {NEVER}"""


Act = Callable[[sqlite3.Connection, Request], int]


def find(verb: Verb, what: Selection) -> Act:
    """The function of a verb at a place.

    Raises:
        ConfigurationError: EB8001, there is none.
    """
    return act_of(_ACTS, verb, what)


def _retry(connection: sqlite3.Connection, request: Request) -> int:
    conditions, values = narrowed(request.what)
    return connection.execute(_RETRY % conditions, (*values, _limit(request))).rowcount


def _release(connection: sqlite3.Connection, request: Request) -> int:
    return _for_keys(connection, _RELEASE, _keys(connection, request))


def _bury(connection: sqlite3.Connection, request: Request) -> int:
    keys = _keys(connection, request)
    buried = _for_keys(connection, _BURY, keys)
    _for_keys(connection, _WISH, keys)
    return buried + _for_keys(connection, _WISHED, keys)


def _redrive(connection: sqlite3.Connection, request: Request) -> int:
    letters = picked(connection, request.what, limit=request.limit)
    connection.execute(_UNTRIED, (_seqs(letters),))
    gap = 1000 / request.rate if request.rate else 0.0
    rows = [(int(n * gap), group, key) for n, (_, group, key) in enumerate(letters)]
    return _for_keys(connection, _REVIVE, rows)


def _discard(connection: sqlite3.Connection, request: Request) -> int:
    letters = picked(connection, request.what, limit=request.limit)
    seqs = _seqs(letters)
    connection.execute(_KEEP, (request.audit, "discard", seqs))
    connection.execute(_DISCARD, (seqs,))
    connection.execute(_UNWANTED, (seqs,))
    _for_keys(connection, _REVIVE, [(0, group, key) for _, group, key in letters])
    return len(letters)


def _restore(connection: sqlite3.Connection, request: Request) -> int:
    conditions, values = narrowed(request.what)
    query = f"{_DISCARDED} {conditions} ORDER BY p.seq LIMIT ?"
    rows = connection.execute(query, (*values, _limit(request))).fetchall()
    asked = json_list([row[0] for row in rows])
    connection.execute(_RESTORE, (asked,))
    connection.execute(_HOLD_AGAIN, (asked,))
    connection.execute(_RESTORED, (asked,))
    return len(rows)


def _edit(connection: sqlite3.Connection, request: Request) -> int:
    payload = payload_of(request)
    letter = only_one(picked(connection, request.what, limit=2), request.what)
    connection.execute(_KEEP, (request.audit, "edit", _seqs([letter])))
    return connection.execute(_EDIT, (payload, letter[0])).rowcount


def _pause(connection: sqlite3.Connection, request: Request) -> int:
    return connection.execute(_PAUSE, (paused_name(request.what), request.actor)).rowcount


def _resume(connection: sqlite3.Connection, request: Request) -> int:
    return connection.execute(_RESUME, (paused_name(request.what),)).rowcount


def _keys(connection: sqlite3.Connection, request: Request) -> list[Row]:
    found = picked(connection, request.what, limit=request.limit)
    return list(dict.fromkeys((group, key) for _, group, key in found))


def _for_keys(connection: sqlite3.Connection, statement: str, rows: Iterable[Row]) -> int:
    return max(connection.executemany(statement, rows).rowcount, 0)


def _seqs(rows: Iterable[Row]) -> str:
    return json_list([row[0] for row in rows])


def _limit(request: Request) -> int:
    return -1 if request.limit is None else request.limit


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
