"""Where projections stand, fenced by lease and compare."""

from collections.abc import Mapping

from eventbus.errors import LeaseLostError, StorageError
from eventbus.postgres.session import Session
from eventbus.storage.checkpoints import START
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease

_CREATE = """
INSERT INTO {schema}.checkpoints (name, position, fingerprint, incarnation)
SELECT $1, $2, $3, incarnation FROM {schema}.store_info ON CONFLICT DO NOTHING"""
_LOAD = """
SELECT c.position, c.fingerprint = $2 AS fits, c.incarnation = i.incarnation AS same
  FROM {schema}.checkpoints c, {schema}.store_info i WHERE c.name = $1"""
_SAVE = """
WITH f AS (SELECT 1 FROM {schema}.leases WHERE name = $4 AND epoch = $5 FOR SHARE)
UPDATE {schema}.checkpoints SET position = $2, saved_at = statement_timestamp()
 WHERE name = $1 AND position = $3 AND state < 2 AND EXISTS (SELECT 1 FROM f)"""
_ACCEPT = """
UPDATE {schema}.checkpoints
   SET fingerprint = $2, incarnation = (SELECT incarnation FROM {schema}.store_info)
 WHERE starts_with(name, $1)"""
_PUT_BACK = """
UPDATE {schema}.checkpoints SET position = $2 WHERE starts_with(name, $1) AND position > $2"""
_POSITIONS = "SELECT name, position FROM {schema}.checkpoints WHERE starts_with(name, $1)"


class PostgresCheckpoints:
    """A position per name."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def load(self, name: str, *, fingerprint: bytes, start: Position = START) -> Position:
        """The position; creates it at `start`."""
        schema = self._session.schema
        self._session.wrote = True
        await self._session.execute(
            _CREATE.format(schema=schema), name, start, fingerprint, where="checkpoints.load"
        )
        rows = await self._session.fetch(
            _LOAD.format(schema=schema), name, fingerprint, where="checkpoints.load"
        )
        if not (rows[0]["fits"] and rows[0]["same"]):
            raise _does_not_fit(name, other_code=not rows[0]["fits"])
        return Position(rows[0]["position"])

    async def save(self, name: str, position: Position, *, after: Position, lease: Lease) -> None:
        """Compare and set."""
        tag = await self._session.execute(
            _SAVE.format(schema=self._session.schema),
            name,
            position,
            after,
            lease.name,
            lease.epoch,
            where="checkpoints.save",
        )
        if tag != "UPDATE 1":
            raise LeaseLostError(
                "EB5201",
                f"checkpoint {name!r} was not saved",
                where=f"lease {lease.name}, epoch {lease.epoch}",
                why=f"the lease is stale, it is not at {after}, or its version is retired",
                next="stop this work: somebody else goes on with it",
            )

    async def accept(self, prefix: str, *, fingerprint: bytes) -> int:
        """Take them as they are."""
        sql = _ACCEPT.format(schema=self._session.schema)
        tag = await self._session.execute(sql, prefix, fingerprint, where="checkpoints.accept")
        self._session.wrote = True
        return int(tag.rpartition(" ")[2])

    async def put_back(self, prefix: str, *, to: Position) -> int:
        """To where the log ends."""
        sql = _PUT_BACK.format(schema=self._session.schema)
        tag = await self._session.execute(sql, prefix, to, where="checkpoints.put_back")
        self._session.wrote = True
        return int(tag.rpartition(" ")[2])

    async def positions(self, prefix: str) -> Mapping[str, Position]:
        """All of names with this prefix."""
        rows = await self._session.look(
            _POSITIONS.format(schema=self._session.schema), prefix, where="checkpoints.positions"
        )
        return {row["name"]: Position(row["position"]) for row in rows}


def _does_not_fit(name: str, *, other_code: bool) -> StorageError:
    return StorageError(
        "EB5202",
        f"checkpoint {name!r} does not fit",
        where="checkpoints.load",
        why="it was saved by code with another fingerprint"
        if other_code
        else "it was saved in another incarnation of the database: restored, or failed over",
        next="eventbus projection rebuild NAME APP"
        if other_code
        else "eventbus projection rebuild NAME APP | eventbus projection resume NAME APP --accept",
    )
