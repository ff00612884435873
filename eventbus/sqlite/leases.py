"""Leases (S6): one writer at a time, so every check is a plain WHERE."""

import sqlite3
from collections.abc import Collection, Sequence
from datetime import timedelta

from eventbus.errors import LeaseLostError
from eventbus.sqlite.rows import LONG_AGO, NEVER, Row, json_list, json_rows, milliseconds
from eventbus.sqlite.session import Session
from eventbus.storage.leases import Lease

_KNOWN = "INSERT INTO eventbus_leases (name) SELECT value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING"  # noqa: E501 - one statement
_ACQUIRE = """
UPDATE eventbus_leases SET owner = ?, epoch = epoch + 1, until = eventbus_now() + ?
 WHERE name IN (
   SELECT name FROM eventbus_leases
    WHERE name IN (SELECT value FROM json_each(?)) AND until < eventbus_now()
    ORDER BY name LIMIT ?)
RETURNING name, epoch"""
_HELD = """
SELECT json_group_array(l.name) FROM json_each(?) h
  JOIN eventbus_leases l ON l.name = h.value ->> 0 AND l.epoch = h.value ->> 1"""
_EXTEND = """
UPDATE eventbus_leases SET until = eventbus_now() + ?
 WHERE name IN (SELECT value FROM json_each(?))"""
_RELEASE = "UPDATE eventbus_leases SET until = ? WHERE name IN (SELECT value FROM json_each(?))"
_OWNERS = """
SELECT count(*) FROM eventbus_leases
 WHERE name >= ? AND name < ? || char(1114111) AND until >= eventbus_now()"""


def free_all(connection: sqlite3.Connection) -> None:
    """Leases of the dead: who has the file's lock is alone. Pauses stay, and so do epochs."""
    connection.execute(
        "UPDATE eventbus_leases SET until = ? WHERE until > ? AND until < ?",
        (LONG_AGO, LONG_AGO, NEVER),
    )


class SqliteLeases:
    """On the clock of `eventbus_now()`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def acquire(
        self, names: Collection[str], *, owner: str, ttl: timedelta, limit: int
    ) -> Sequence[Lease]:
        """Take what is free, in the order of names: owners take turns and never meet."""
        wanted = json_list(sorted(set(names)))
        span = milliseconds(ttl)

        def acquire(connection: sqlite3.Connection) -> list[Row]:
            connection.execute(_KNOWN, (wanted,))
            return connection.execute(_ACQUIRE, (owner, span, wanted, limit)).fetchall()

        rows = await self._session.run("leases.acquire", acquire)
        return [Lease(name, owner, epoch) for name, epoch in sorted(rows)]

    async def renew(self, leases: Collection[Lease], *, ttl: timedelta) -> Sequence[Lease]:
        """Extend those whose epoch is the last one."""
        span = milliseconds(ttl)

        def renew(connection: sqlite3.Connection) -> list[Lease]:
            ours = held(connection, leases)
            names = json_list([lease.name for lease in ours])
            connection.execute(_EXTEND, (span, names))
            return ours

        return await self._session.run("leases.renew", renew)

    async def release(self, leases: Collection[Lease]) -> None:
        """Free those whose epoch is the last one."""

        def release(connection: sqlite3.Connection) -> None:
            names = json_list([lease.name for lease in held(connection, leases)])
            connection.execute(_RELEASE, (LONG_AGO, names))

        await self._session.run("leases.release", release)

    async def owners(self, prefix: str) -> int:
        """How many are held now, paused ones too."""

        def owners(connection: sqlite3.Connection) -> int:
            return int(connection.execute(_OWNERS, (prefix, prefix)).fetchone()[0])

        return await self._session.run("leases.owners", owners)


def held(connection: sqlite3.Connection, leases: Collection[Lease]) -> list[Lease]:
    """Those nobody has taken over; in a write transaction that stays true until its end."""
    asked = json_list([(lease.name, lease.epoch) for lease in leases])
    names = set(json_rows(connection.execute(_HELD, (asked,)).fetchone()[0]))
    return [lease for lease in leases if lease.name in names]


def fence(connection: sqlite3.Connection, lease: Lease) -> None:
    """Refuse a stale epoch.

    Raises:
        LeaseLostError: EB5201; nothing was written.
    """
    if not held(connection, (lease,)):
        raise lost(lease, f"epoch {lease.epoch} is not the last one any more")


def lost(lease: Lease, why: str) -> LeaseLostError:
    """The error of a write under a lease that somebody else has."""
    return LeaseLostError(
        "EB5201",
        f"the lease {lease.name!r} is lost",
        where=f"owner {lease.owner}, epoch {lease.epoch}",
        why=why,
        next="stop this work and roll back: the new owner does it",
    )
