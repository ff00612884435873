"""Parking: retries and dead letters that keep the order of a key (B7, storage.md 6)."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Sequence
from typing import Any

from eventbus.errors import LeaseLostError
from eventbus.postgres.rows import parked_columns, parked_of
from eventbus.postgres.session import Session, only_read_committed
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Crowd, Parked

_ARGUMENTS = ", ".join(f"${number}" for number in range(1, 22))
_PARK = f"SELECT {{schema}}.park({_ARGUMENTS}) AS held"
# Keys that were emptied have been due for longest: only the first ones are looked through, each by
# the index: as an anti-join the planner reads all that is parked.
_FIRST = """
  SELECT {columns} FROM {{schema}}.parked_keys
   WHERE group_name = $1 AND state = 0 AND due_at <= statement_timestamp()
   ORDER BY due_at LIMIT 1000"""
_IS_EMPTY = """(
  SELECT p.seq FROM {schema}.parked p
   WHERE p.group_name = k.group_name AND p.key = k.key ORDER BY p.seq LIMIT 1) IS NULL"""
_ANY_EMPTY = f"""
SELECT 1 FROM ({_FIRST.format(columns="group_name, key")}) k WHERE {_IS_EMPTY} LIMIT 1"""
# Empty keys are freed in two statements, because one cannot wait and then look again.
_EMPTY = f"""
SELECT key FROM {{schema}}.parked_keys k
 WHERE group_name = $1 AND key = ANY (ARRAY({_FIRST.format(columns="key")}))
   AND state = 0 AND due_at <= statement_timestamp() AND {_IS_EMPTY} FOR UPDATE SKIP LOCKED"""
_FREE = """
DELETE FROM {schema}.parked_keys k
 WHERE group_name = $1 AND key = ANY($2::text[])
   AND NOT EXISTS (SELECT 1 FROM {schema}.parked p WHERE p.group_name = $1 AND p.key = k.key)"""
_DUE = """
SELECT p.* FROM (
  SELECT group_name, key, due_at FROM {schema}.parked_keys
   WHERE group_name = $1 AND state = 0 AND due_at <= statement_timestamp()
   ORDER BY due_at LIMIT {limit}) k
 CROSS JOIN LATERAL (
  SELECT * FROM {schema}.parked p WHERE p.group_name = k.group_name AND p.key = k.key
   ORDER BY p.seq LIMIT 20) p
 ORDER BY k.due_at, p.key, p.seq"""
_CLOSE = "SELECT {schema}.close_key($1, $2) AS closed"
_ALIVE = "SELECT 1 FROM {schema}.parked_keys WHERE group_name = $1 AND key = $2 AND state = 0"
_BEHIND = """
SELECT * FROM {schema}.parked WHERE group_name = $1 AND key = $2 ORDER BY seq LIMIT {limit}"""
_SETTLE = """
WITH f AS (SELECT 1 FROM {schema}.leases WHERE name = $1 AND epoch = $2 FOR SHARE)
DELETE FROM {schema}.parked p USING unnest($4::uuid[]) d(message)
 WHERE p.group_name = $3 AND p.message = d.message AND EXISTS (SELECT 1 FROM f) RETURNING 1"""
_FENCE = "SELECT 1 FROM {schema}.leases WHERE name = $1 AND epoch = $2 FOR SHARE"
_KEYS = "SELECT key FROM {schema}.parked_keys WHERE group_name = $1 LIMIT {limit}"


_MESSAGES = "SELECT count(*) AS n FROM {schema}.parked WHERE group_name = $1"
_LONGEST = """
SELECT coalesce(max(n), 0) AS n FROM (
  SELECT count(*) AS n FROM {schema}.parked WHERE group_name = $1 GROUP BY key) k"""


class PostgresParking:
    """Keys that wait, and what waits for them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def park(
        self, parked: Sequence[Parked], *, group: str, lease: Lease | None = None
    ) -> None:
        """Put messages at the end of their keys' queues."""
        if not parked:
            return
        await only_read_committed(self._session, "parking.park")
        name, epoch = (None, None) if lease is None else (lease.name, lease.epoch)
        rows = await self._fetch(
            _PARK, group, name, epoch, *parked_columns(parked), where="parking.park"
        )
        if not rows[0]["held"]:
            raise _lost(lease, group)
        self._session.wrote = True
        self._session.hints.add("parked")

    async def keys(self, *, group: str, limit: int) -> frozenset[str]:
        """Keys held now."""
        rows = await self._look(_KEYS, group, where="parking.keys", limit=limit)
        return frozenset(row["key"] for row in rows)

    async def crowd(self, *, group: str, above: int) -> Crowd:
        """Counted by the index of keys."""
        messages = (await self._look(_MESSAGES, group, where="parking.crowd"))[0]["n"]
        longest = 0
        if messages >= above:
            longest = (await self._look(_LONGEST, group, where="parking.crowd"))[0]["n"]
        return Crowd(messages=messages, behind_key=longest)

    async def due(self, lease: Lease, *, group: str, limit: int) -> Sequence[Parked]:
        """Free empty keys, then the heads that are due and what queues behind them."""
        while await self._free_empty(group) >= 1000:
            pass
        rows = await self._look(_DUE, group, where="parking.due", limit=limit)
        return [parked_of(row) for row in rows]

    async def behind(
        self, lease: Lease, key: str, *, group: str, limit: int, closing: bool = False
    ) -> Sequence[Parked] | None:
        """What waits for a key; closing, with the key locked against lanes."""
        alive = await self._close(group, key) if closing else await self._alive(group, key)
        if not alive:
            return None
        if closing:
            self._session.closing.add((group, key))
        rows = await self._look(_BEHIND, group, key, where="parking.behind", limit=limit)
        return [parked_of(row) for row in rows]

    async def settle(self, lease: Lease, parked: Sequence[Parked], *, group: str) -> None:
        """Forget messages; free what this transaction closed, if it is empty."""
        identities = list(dict.fromkeys(one.message.identity for one in parked))
        if identities:
            rows = await self._fetch(
                _SETTLE, lease.name, lease.epoch, group, identities, where="parking.settle"
            )
            if len(rows) != len(identities):
                raise _lost(lease, group)
        elif not await self._fetch(_FENCE, lease.name, lease.epoch, where="parking.settle"):
            raise _lost(lease, group)
        closed = sorted(key for name, key in self._session.closing if name == group)
        if closed:
            await self._fetch(_FREE, group, closed, where="parking.settle")

    async def _free_empty(self, group: str) -> int:
        if not await self._look(_ANY_EMPTY, group, where="parking.due"):
            return 0  # nearly always: a look needs no transaction
        rows = await self._fetch(_EMPTY, group, where="parking.due")
        if rows:
            keys = [row["key"] for row in rows]
            await self._fetch(_FREE, group, keys, where="parking.due")
        return len(rows)

    async def _alive(self, group: str, key: str) -> bool:
        return bool(await self._look(_ALIVE, group, key, where="parking.behind"))

    async def _close(self, group: str, key: str) -> bool:
        """Lock the key row; busy for a second means not now."""
        await only_read_committed(self._session, "parking.behind")
        rows = await self._fetch(_CLOSE, group, key, where="parking.behind")
        return bool(rows[0]["closed"])

    async def _look(self, statement: str, *args: Any, where: str, limit: int = 0) -> list[Any]:
        sql = statement.format(schema=self._session.schema, limit=limit)
        return await self._session.look(sql, *args, where=where)

    async def _fetch(self, statement: str, *args: Any, where: str, limit: int = 0) -> list[Any]:
        sql = statement.format(schema=self._session.schema, limit=limit)
        return await self._session.fetch(sql, *args, where=where)


def _lost(lease: Lease | None, group: str) -> LeaseLostError:
    name, epoch = ("no lease", 0) if lease is None else (lease.name, lease.epoch)
    return LeaseLostError(
        "EB5201",
        f"parking of group {group!r} belongs to somebody else now",
        where=f"lease {name}, epoch {epoch}",
        why="the lease is stale, or another worker settled one of the messages",
        next="nothing of this transaction is kept: the new owner goes on",
    )
