"""One owner per name, fenced by an epoch, on the database's clock (S6)."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from eventbus.postgres.session import Session
from eventbus.postgres.upgrade import migrations
from eventbus.storage.leases import Lease

_KNOW = """
INSERT INTO {schema}.leases (name) SELECT n FROM unnest($1::text[]) n
 WHERE NOT EXISTS (SELECT FROM {schema}.leases l WHERE l.name = n)
 ORDER BY n COLLATE "C" ON CONFLICT DO NOTHING"""
_ACQUIRE = """
WITH free AS (
  SELECT name FROM {schema}.leases WHERE name = ANY($1::text[]) AND until < statement_timestamp()
     AND cardinality($1::text[]) = (
       SELECT count(*) FROM {schema}.leases WHERE name = ANY($1::text[]))
   ORDER BY random() LIMIT $4 FOR UPDATE SKIP LOCKED)
UPDATE {schema}.leases l
   SET owner = $2, epoch = l.epoch + 1, until = statement_timestamp() + $3::interval
  FROM free WHERE l.name = free.name RETURNING l.name, l.epoch"""
_RENEW = """
UPDATE {schema}.leases l SET until = statement_timestamp() + $3::interval
  FROM unnest($1::text[], $2::bigint[]) h(name, epoch)
 WHERE l.name = h.name AND l.epoch = h.epoch AND l.until > '-infinity'
RETURNING l.name, l.epoch"""
_RELEASE = """
UPDATE {schema}.leases l SET until = '-infinity'
  FROM unnest($1::text[], $2::bigint[]) h(name, epoch)
 WHERE l.name = h.name AND l.epoch = h.epoch"""
_OWNERS = """
SELECT count(*) AS n FROM {schema}.leases
 WHERE starts_with(name, $1) AND until >= statement_timestamp()"""


class PostgresLeases:
    """`acquire` takes what is free and never waits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def acquire(
        self, names: Collection[str], *, owner: str, ttl: timedelta, limit: int
    ) -> Sequence[Lease]:
        """Take at most `limit` free ones, each with a higher epoch.

        The row says behind an @ by which schema its owner works, for `upgrade`.

        Nothing is taken while a name is unknown: an insert waits for a row that another
        transaction has just taken, and two that hold rows and insert are a deadlock.
        """
        if not names or limit < 1:
            return ()
        wanted, holder = sorted(set(names)), f"{owner}@{migrations()[-1].number}"
        rows = await self._fetch(_ACQUIRE, wanted, holder, ttl, limit)
        if not rows:  # perhaps some of them are not known yet
            await self._fetch(_KNOW, wanted)
            rows = await self._fetch(_ACQUIRE, wanted, holder, ttl, limit)
        leases = [Lease(row["name"], owner, row["epoch"]) for row in rows]
        return sorted(leases, key=lambda lease: lease.name)

    async def renew(self, leases: Collection[Lease], *, ttl: timedelta) -> Sequence[Lease]:
        """Those still held."""
        if not leases:
            return ()
        rows = await self._fetch(_RENEW, *_names_and_epochs(leases), ttl)
        held = {(row["name"], row["epoch"]) for row in rows}
        return [lease for lease in leases if (lease.name, lease.epoch) in held]

    async def release(self, leases: Collection[Lease]) -> None:
        """Free what is still ours."""
        if leases:
            await self._fetch(_RELEASE, *_names_and_epochs(leases))

    async def owners(self, prefix: str) -> int:
        """How many with this prefix are held."""
        sql = _OWNERS.format(schema=self._session.schema)
        rows = await self._session.look(sql, prefix, where="leases.owners", role="control")
        return int(rows[0]["n"])

    async def _fetch(self, statement: str, *args: object) -> list[Any]:
        sql = statement.format(schema=self._session.schema)
        return await self._session.fetch(sql, *args, where="leases", role="control")


def _names_and_epochs(leases: Collection[Lease]) -> tuple[list[str], list[int]]:
    ordered = sorted(leases, key=lambda lease: lease.name)
    return [lease.name for lease in ordered], [lease.epoch for lease in ordered]
