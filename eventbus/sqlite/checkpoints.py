"""Where projections stand: fenced by lease and compare."""

import sqlite3
from collections.abc import Mapping

from eventbus.errors import LeaseLostError, StorageError
from eventbus.sqlite.leases import fence
from eventbus.sqlite.session import Session
from eventbus.storage.checkpoints import START
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease

_CREATE = """
INSERT INTO eventbus_checkpoints (name, position, fingerprint, incarnation, updated_at)
SELECT ?, ?, ?, incarnation, eventbus_now() FROM eventbus_store_info WHERE true
ON CONFLICT DO NOTHING"""
_LOAD = """
SELECT c.position, c.fingerprint, c.incarnation = i.incarnation
  FROM eventbus_checkpoints c, eventbus_store_info i WHERE c.name = ?"""
_SAVE = """
UPDATE eventbus_checkpoints SET position = ?, updated_at = eventbus_now()
 WHERE name = ? AND position = ? AND state < 2"""
_ACCEPT = """
UPDATE eventbus_checkpoints
   SET fingerprint = ?2, incarnation = (SELECT incarnation FROM eventbus_store_info)
 WHERE substr(name, 1, length(?1)) = ?1"""
_PUT_BACK = """
UPDATE eventbus_checkpoints SET position = ?2
 WHERE substr(name, 1, length(?1)) = ?1 AND position > ?2"""
_POSITIONS = """
SELECT name, position FROM eventbus_checkpoints
 WHERE name >= ? AND name < ? || char(1114111) ORDER BY name"""


class SqliteCheckpoints:
    """One row per name."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def load(self, name: str, *, fingerprint: bytes, start: Position = START) -> Position:
        """The position, if the row fits this database and this definition.

        Raises:
            StorageError: EB5202, it does not.
        """

        def load(connection: sqlite3.Connection) -> Position:
            connection.execute(_CREATE, (name, start, fingerprint))
            position, known, same_database = connection.execute(_LOAD, (name,)).fetchone()
            if not same_database:
                raise _misfit(name, "it was written in another incarnation of the database")
            if known != fingerprint:
                raise _misfit(name, "its fingerprint is another one: types, filter or keys differ")
            return Position(position)

        return await self._session.run("checkpoints.load", load)

    async def save(self, name: str, position: Position, *, after: Position, lease: Lease) -> None:
        """Compare and set under the lease.

        Raises:
            LeaseLostError: EB5201, stale lease or another position; nothing was written.
        """

        def save(connection: sqlite3.Connection) -> None:
            fence(connection, lease)
            if connection.execute(_SAVE, (position, name, after)).rowcount != 1:
                raise LeaseLostError(
                    "EB5201",
                    f"the checkpoint {name!r} is not at {after}",
                    where=f"owner {lease.owner}, epoch {lease.epoch}",
                    why="somebody else moved it, it was never loaded, or its version is retired",
                    next="stop this work and load the checkpoint again",
                )

        await self._session.run("checkpoints.save", save)

    async def accept(self, prefix: str, *, fingerprint: bytes) -> int:
        """Take them as they are."""

        def accept(connection: sqlite3.Connection) -> int:
            return connection.execute(_ACCEPT, (prefix, fingerprint)).rowcount

        return await self._session.run("checkpoints.accept", accept)

    async def put_back(self, prefix: str, *, to: Position) -> int:
        """To where the log ends."""

        def put_back(connection: sqlite3.Connection) -> int:
            return connection.execute(_PUT_BACK, (prefix, to)).rowcount

        return await self._session.run("checkpoints.put_back", put_back)

    async def positions(self, prefix: str) -> Mapping[str, Position]:
        """By name."""

        def positions(connection: sqlite3.Connection) -> dict[str, Position]:
            return dict(connection.execute(_POSITIONS, (prefix, prefix)).fetchall())

        return await self._session.run("checkpoints.positions", positions)


def _misfit(name: str, why: str) -> StorageError:
    return StorageError(
        "EB5202",
        f"the checkpoint {name!r} does not fit",
        where="eventbus_checkpoints",
        why=why,
        next="rebuild the projection, or resume it with --accept if you know that it fits",
    )
