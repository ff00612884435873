"""Parking (B7): keys that wait, and what waits for them, in the order of `seq`."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import sqlite3
from collections.abc import Sequence

from eventbus.sqlite.leases import fence, held, lost
from eventbus.sqlite.rows import (
    LONG_AGO,
    PARKED,
    Row,
    json_list,
    milliseconds,
    parked_of,
    parked_row,
    prefixed,
)
from eventbus.sqlite.session import Session
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Crowd, Parked

RETRYING, DEAD = 0, 1
BEHIND_A_HEAD = 20  # messages of one key that `due` reads
FREED_AT_ONCE = 1000

# Without a lease a key that is held keeps its state; what only queues changes neither.
_HOLD = f"""
INSERT INTO eventbus_parked_keys AS k (group_name, key, state, due_at, held_since)
VALUES (?, ?, ?, CASE WHEN ? IS NULL THEN {LONG_AGO} ELSE eventbus_now() + ? END, eventbus_now())
ON CONFLICT DO UPDATE SET due_at = excluded.due_at, state = excluded.state
 WHERE ? AND excluded.due_at <> {LONG_AGO}"""
_PARK = f"""
INSERT INTO eventbus_parked AS p ({PARKED}, parked_at)
VALUES ({", ".join("?" * 18)}, eventbus_now())
ON CONFLICT (group_name, message) DO UPDATE SET
  attempts = max(p.attempts, excluded.attempts), reason = coalesce(excluded.reason, p.reason),
  code = coalesce(excluded.code, p.code), error = coalesce(excluded.error, p.error),
  error_type = coalesce(excluded.error_type, p.error_type),
  fingerprint = coalesce(excluded.fingerprint, p.fingerprint)"""
_KEYS = "SELECT key FROM eventbus_parked_keys WHERE group_name = ? LIMIT ?"
# Keys that were emptied have been due for longest: only the first ones are looked through.
_FREE = f"""
DELETE FROM eventbus_parked_keys AS k
 WHERE k.group_name = ? AND k.key IN (
   SELECT d.key FROM eventbus_parked_keys d
    WHERE d.group_name = ? AND d.state = 0 AND d.due_at <= eventbus_now()
    ORDER BY d.due_at LIMIT {FREED_AT_ONCE})
  AND NOT EXISTS (
   SELECT 1 FROM eventbus_parked p WHERE p.group_name = k.group_name AND p.key = k.key)"""
_DUE = f"""
SELECT {prefixed(PARKED, "p")} FROM (
  SELECT group_name, key, due_at FROM eventbus_parked_keys
   WHERE group_name = ? AND state = 0 AND due_at <= eventbus_now()
   ORDER BY due_at, key LIMIT ?) k
 JOIN eventbus_parked p ON p.seq IN (
  SELECT q.seq FROM eventbus_parked q
   WHERE q.group_name = k.group_name AND q.key = k.key ORDER BY q.seq LIMIT {BEHIND_A_HEAD})
 ORDER BY k.due_at, k.key, p.seq"""
_RETRIES = "SELECT 1 FROM eventbus_parked_keys WHERE group_name = ? AND key = ? AND state = 0"
_BEHIND = f"""
SELECT {prefixed(PARKED, "p")} FROM eventbus_parked p
 WHERE p.group_name = ? AND p.key = ? ORDER BY p.seq LIMIT ?"""
_THERE = """
SELECT count(*) FROM eventbus_parked
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))"""
_SETTLE = """
DELETE FROM eventbus_parked
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))"""
_FREE_ONE = """
DELETE FROM eventbus_parked_keys AS k
 WHERE group_name = ? AND key = ? AND NOT EXISTS (
   SELECT 1 FROM eventbus_parked p WHERE p.group_name = k.group_name AND p.key = k.key)"""


_MESSAGES = "SELECT count(*) FROM eventbus_parked WHERE group_name = ?"
_LONGEST = """
SELECT coalesce(max(n), 0) FROM (
  SELECT count(*) AS n FROM eventbus_parked WHERE group_name = ? GROUP BY key)"""


class SqliteParking:
    """One writer: what a transaction has read of a key stays true until it ends."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def park(
        self, parked: Sequence[Parked], *, group: str, lease: Lease | None = None
    ) -> None:
        """Hold the keys, then queue the messages in the order given."""
        rows = [parked_row(one, group) for one in parked]
        heads = _heads(parked, group, speaks=lease is not None)

        def park(connection: sqlite3.Connection) -> None:
            if lease is not None:
                fence(connection, lease)
            connection.executemany(_HOLD, heads)
            connection.executemany(_PARK, rows)

        await self._session.run("parking.park", park)
        self._session.hints.add("parked")

    async def keys(self, *, group: str, limit: int) -> frozenset[str]:
        """Some of the keys that are held, dead ones too."""

        def keys(connection: sqlite3.Connection) -> frozenset[str]:
            return frozenset(row[0] for row in connection.execute(_KEYS, (group, limit)))

        return await self._session.run("parking.keys", keys)

    async def crowd(self, *, group: str, above: int) -> Crowd:
        """Counted by the index of keys."""

        def crowd(connection: sqlite3.Connection) -> Crowd:
            messages = connection.execute(_MESSAGES, (group,)).fetchone()[0]
            longest = (
                0 if messages < above else connection.execute(_LONGEST, (group,)).fetchone()[0]
            )
            return Crowd(messages=messages, behind_key=longest)

        return await self._session.run("parking.crowd", crowd)

    async def due(self, lease: Lease, *, group: str, limit: int) -> Sequence[Parked]:
        """Free empty keys, then read at most `limit` due keys with what queues behind their heads.

        A stale lease frees nothing and finds nothing.
        """

        def due(connection: sqlite3.Connection) -> list[Row]:
            if not held(connection, (lease,)):
                return []
            while connection.execute(_FREE, (group, group)).rowcount == FREED_AT_ONCE:
                pass  # empty keys may fill the window of heads
            return connection.execute(_DUE, (group, limit)).fetchall()

        return [parked_of(row) for row in await self._session.run("parking.due", due)]

    async def behind(
        self, lease: Lease, key: str, *, group: str, limit: int, closing: bool = False
    ) -> Sequence[Parked] | None:
        """What waits for a key; None if it is free, dead, or not ours to redeliver."""

        def behind(connection: sqlite3.Connection) -> list[Row] | None:
            if not held(connection, (lease,)):
                return None
            if connection.execute(_RETRIES, (group, key)).fetchone() is None:
                return None
            return connection.execute(_BEHIND, (group, key, limit)).fetchall()

        rows = await self._session.run("parking.behind", behind)
        if rows is None:
            return None
        if closing:
            self._session.closing_keys.add((group, key))
        return [parked_of(row) for row in rows]

    async def settle(self, lease: Lease, parked: Sequence[Parked], *, group: str) -> None:
        """Forget messages; free the key of a closing round if it is empty.

        Raises:
            LeaseLostError: EB5201, stale lease, or one of them is gone; nothing was written.
        """
        identities = {str(one.message.identity) for one in parked}
        asked = json_list(identities)

        def settle(connection: sqlite3.Connection) -> None:
            fence(connection, lease)
            there = connection.execute(_THERE, (group, asked)).fetchone()[0]
            if there != len(identities):
                raise lost(lease, "somebody settled or discarded one of the messages")
            connection.execute(_SETTLE, (group, asked))
            for closing in self._session.closing_keys:
                if closing[0] == group:
                    connection.execute(_FREE_ONE, closing)

        await self._session.run("parking.settle", settle)


def _heads(parked: Sequence[Parked], group: str, *, speaks: bool) -> list[Row]:
    """The first message of a key speaks for it, if it was tried; no delay: dead."""
    first: dict[str, Parked] = {}
    for one in parked:
        first.setdefault(one.key, one)
    heads: list[Row] = []
    for key, one in first.items():
        wait = None
        if one.failure is not None:
            wait = 0 if one.delay is None else milliseconds(one.delay)
        state = DEAD if one.failure is not None and one.delay is None else RETRYING
        heads.append((group, key, state, wait, wait, speaks))
    return heads
