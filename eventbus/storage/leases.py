"""One owner per name, fenced by an epoch, on the database's clock."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """Ours until its ttl is over, or somebody draws a higher epoch."""

    name: str  # "outbox/07", "parked/billing", "projection/orders@8/3"
    owner: str
    epoch: int  # fencing token: grows with every change of owner (S6)


class Leases(Protocol):
    """`acquire` takes what is free and never waits."""

    async def acquire(
        self, names: Collection[str], *, owner: str, ttl: timedelta, limit: int
    ) -> Sequence[Lease]:
        """Take at most `limit` of the names that are free or run out, each with a higher epoch."""
        ...

    async def renew(self, leases: Collection[Lease], *, ttl: timedelta) -> Sequence[Lease]:
        """Extend; those still held. One that does not come back is lost."""
        ...

    async def release(self, leases: Collection[Lease]) -> None:
        """Free what is still ours; nothing of a stale epoch."""
        ...

    async def owners(self, prefix: str) -> int:
        """How many leases of names with this prefix are held.

        For the fair share, and for what is paused.
        """
        ...
