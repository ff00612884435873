"""Where a projection of the general form writes, in the transaction of its checkpoint."""

from collections.abc import Awaitable, Callable

from eventbus.event import Event
from eventbus.message import Message
from eventbus.storage import Transaction
from eventbus.storage.projections import ProjectionVersion
from eventbus.storage.sql import Sql

Encode = Callable[[Event, Transaction], Awaitable[Message]]


class BatchView:
    """A view of one batch, all of it before or all of it after the position of first effects."""

    def __init__(
        self, tx: Transaction, version: ProjectionVersion, encode: Encode, *, replaying: bool
    ) -> None:
        self.replaying: bool = replaying
        self.withheld: int = 0  # publishes that were counted only
        self._tx = tx
        self._version = version
        self._encode = encode

    @property
    def sql(self) -> Sql:
        """SQL in the transaction of the checkpoint."""
        return self._tx.sql

    async def publish(self, what: Event) -> None:
        """Through the outbox, unless it happened long ago."""
        if self.replaying:
            self.withheld += 1
        else:
            await self._tx.outbox.add([await self._encode(what, self._tx)])

    def table(self, name: str) -> str:
        """The table of this version."""
        if self._version.status == "active":
            return name
        return f"{name}__v{self._version.version}"
