"""Where projections stand."""

from collections.abc import Mapping
from typing import Protocol

from eventbus.storage.events import Position
from eventbus.storage.leases import Lease

START = Position(0)


class Checkpoints(Protocol):
    """A position per name, fenced by lease and compare."""

    async def load(self, name: str, *, fingerprint: bytes, start: Position = START) -> Position:
        """The position; creates it at `start`.

        Raises:
            StorageError: another fingerprint, another incarnation of the database, or a position
                above its head.
        """
        ...

    async def save(self, name: str, position: Position, *, after: Position, lease: Lease) -> None:
        """Compare and set: `after` is what `load` or the last `save` said.

        Raises:
            LeaseLostError: the lease is stale, or the position is not `after`; nothing was written.
        """
        ...

    async def accept(self, prefix: str, *, fingerprint: bytes) -> int:
        """Take all with this prefix as those of this code and this database; how many.

        An operator's word for what nobody can check.
        """
        ...

    async def put_back(self, prefix: str, *, to: Position) -> int:
        """Let those with this prefix that are beyond a position stand there; how many they were.

        They were ahead of a log that lost its end. Whoever serves afterwards reads what comes new.
        """
        ...

    async def positions(self, prefix: str) -> Mapping[str, Position]:
        """All positions of names with this prefix: for waiting, and for lag."""
        ...
