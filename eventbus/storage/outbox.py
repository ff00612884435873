"""Messages that wait for the broker: 64 partitions by hash of key (S2)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from zlib import crc32

from eventbus.message import Message
from eventbus.storage.leases import Lease
from eventbus.values import make_quickly


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A row of the outbox, read under a lease."""

    partition: int
    row: int
    message: Message
    attempts: int
    # since it was added, by the database's clock
    age: timedelta = field(default=timedelta(), compare=False)


make_quickly(Outgoing)


PARTITIONS = 64


def partition_of(key: str) -> int:
    """crc32 of the key modulo PARTITIONS; what has no key goes by its own_key()."""
    return crc32(key.encode()) % PARTITIONS


class Outbox(Protocol):
    """What is written with the business rows, and leaves after their commit.

    `settle` and `defer` return how many rows they changed; rows under a lost lease stay.
    """

    async def add(self, messages: Sequence[Message], *, delay: timedelta | None = None) -> None:
        """Buffer messages.

        They are the transaction's last statements, in this order, so ids follow commit order per
        key.
        """
        ...

    async def promote(self, leases: Collection[Lease], *, limit: int) -> int:
        """Let delayed ones that are due join the queue; how many did."""
        ...

    async def read(
        self,
        leases: Collection[Lease],
        *,
        limit: int,
        after: int = 0,
        besides: Collection[int] = (),
    ) -> Sequence[Outgoing]:
        """What is due, per key in row order; locks nothing.

        Rows behind a deferred one of their key are left out. `after` leaves out rows up to that
        number too, unless one of these partitions has a deferred or failed row: it spares reading
        again what is on its way. A lower row may be committed later, so read from 0 now and then.
        `besides` leaves out rows by their numbers.
        """
        ...

    async def settle(self, leases: Collection[Lease], sent: Sequence[Outgoing]) -> int:
        """Delete what the broker confirmed."""
        ...

    async def defer(
        self,
        leases: Collection[Lease],
        rows: Sequence[Outgoing],
        *,
        delay: timedelta | None,
        error: str,
    ) -> int:
        """Hold rows back, and with them the later ones of their keys.

        No delay: failed, until retried by hand.
        """
        ...
