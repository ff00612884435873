"""Looks at the database beside the bus: snapshots of the money, figures, what is left."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import asyncpg

from eventbus.service import pause
from tests.faults.checkers.ledger import Snapshot

EVERY_SECONDS = 0.05
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)  # the database goes down, at times
_MONEY = """
SELECT (SELECT sum(balance) FROM accounts)::bigint AS accounts,
       (SELECT min(balance) FROM accounts) AS lowest,
       (SELECT coalesce(sum(amount), 0) FROM transit)::bigint AS transit"""
_HELD = """
SELECT count(*) FROM {schema}.outbox o JOIN {schema}.leases l
    ON l.name = 'outbox/' || lpad(o.part::text, 2, '0')
 WHERE l.owner LIKE '%:' || $1::int || ':%' AND l.until >= statement_timestamp()"""
_OPEN = """
SELECT count(*) FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL AND application_name LIKE 'eventbus/%'"""
_STANDING = """
SELECT (SELECT count(*) FROM requests) AS requests,
       (SELECT count(*) FROM effects) AS effects,
       (SELECT count(*) FROM effects WHERE grp = 'confirm') AS confirmed,
       (SELECT count(*) FROM transit) AS transit,
       (SELECT count(*) FROM {schema}.outbox) AS outbox,
       (SELECT count(*) FROM {schema}.parked) AS parked,
       (SELECT count(*) FROM {schema}.parked_keys) AS parked_keys"""


class Observer:
    """One connection at a time, made again when the database comes back.

    Args:
        url: of the database.
        schema: of the bus.
        money: what says how much there is, on accounts and in transit.
        standing: what says how far everything is.
        held: what says how much work a process, by its pid, has taken on and not finished.
        every: seconds between two looks at the money.
    """

    def __init__(
        self,
        url: str,
        schema: str,
        *,
        money: str = _MONEY,
        standing: str = _STANDING,
        held: str = _HELD,
        every: float = EVERY_SECONDS,
    ) -> None:
        self.snapshots: list[Snapshot] = []
        self._money = money
        self._standing = standing
        self._held = held
        self._every = every
        self._url = url
        self._schema = schema
        self._turn = asyncio.Lock()
        self._connection: Any = None

    async def watch(self, stopping: asyncio.Event) -> None:
        """Take snapshots all the while."""
        while not await pause(stopping, self._every):
            rows = await self.ask(self._money)
            if rows is not None:
                self.snapshots.append(Snapshot(t=time.monotonic_ns(), **dict(rows[0])))

    async def held_by(self, pid: int) -> int:
        """Rows that a process has taken on and not finished: what a kill of it hits."""
        rows = await self.ask(self._held, pid)
        return 0 if rows is None else int(rows[0][0])

    async def open_transactions(self) -> int:
        """Of the bus, with something written: what a crash of the server hits."""
        rows = await self.ask(_OPEN)
        return 0 if rows is None else int(rows[0][0])

    async def under_way(self) -> int:
        """Messages asked for that are not through yet: in the outbox, at the broker, in a lane."""
        standing = await self.standing()
        return 0 if standing is None else standing["requests"] - standing["confirmed"]

    async def confirmed(self) -> int:
        """How many are through; 0 while nobody can say."""
        standing = await self.standing()
        return 0 if standing is None else standing["confirmed"]

    async def standing(self) -> Mapping[str, int] | None:
        """How far everything is; None while nobody can say."""
        rows = await self.ask(self._standing)
        return None if rows is None else dict(rows[0])

    async def ask(self, query: str, *values: object) -> list[Any] | None:
        """In one snapshot; None if the database is away."""
        async with self._turn:
            try:
                if self._connection is None:
                    self._connection = await asyncpg.connect(
                        self._url, timeout=2, command_timeout=20
                    )
                async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                    rows: list[Any] = await self._connection.fetch(
                        query.replace("{schema}", self._schema), *values
                    )
            except _LOST:
                self.close()
                return None
        return rows

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
