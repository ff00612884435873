"""Call steps: claimed for a time, under a fence that grows with every claim."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Collection, Sequence
from datetime import timedelta

from eventbus.sqlite.rows import milliseconds
from eventbus.sqlite.saga_rows import CALL, call_of
from eventbus.storage.sagas import Call

_CLAIM = f"""
UPDATE eventbus_saga_call SET owner = ?, fence = fence + 1, attempt = attempt + 1,
  due_at = eventbus_now() + ?
 WHERE effect_id IN (
   SELECT effect_id FROM eventbus_saga_call
    WHERE saga_type = ? AND def_version = ? AND due_at <= eventbus_now() ORDER BY due_at LIMIT ?)
RETURNING {CALL}"""
_RENEW = """
UPDATE eventbus_saga_call SET due_at = eventbus_now() + ? WHERE effect_id = ? AND fence = ?"""
_FINISH = "DELETE FROM eventbus_saga_call WHERE effect_id = ? AND fence = ?"


def claim(
    connection: sqlite3.Connection,
    definitions: Collection[tuple[str, int]],
    *,
    owner: str,
    ttl: timedelta,
    limit: int,
) -> list[Call]:
    """A lease that ended is free: claim and take-over are one statement."""
    calls: list[Call] = []
    for saga, version in definitions:
        asked = (owner, milliseconds(ttl), saga, version, limit - len(calls))
        calls += [call_of(row) for row in connection.execute(_CLAIM, asked).fetchall()]
    return calls


def renew(connection: sqlite3.Connection, calls: Sequence[Call], *, ttl: timedelta) -> list[Call]:
    """The fence alone names the owner."""
    span = milliseconds(ttl)
    return [
        call
        for call in calls
        if connection.execute(_RENEW, (span, str(call.effect_id), call.fence)).rowcount == 1
    ]


def finish(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Call]:
    """A zombie deletes nothing."""
    return [
        call
        for call in calls
        if connection.execute(_FINISH, (str(call.effect_id), call.fence)).rowcount == 1
    ]
