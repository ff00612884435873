"""Where a projection of the general form writes, in the transaction of its checkpoint."""

from collections.abc import Awaitable, Callable, Sequence

from eventbus.errors import ProjectionError
from eventbus.event import Event
from eventbus.message import Message
from eventbus.storage import Transaction
from eventbus.storage.projections import ProjectionVersion, beside
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
        """The table of this version.

        Raises:
            ProjectionError: EB6016, a rebuild has no such table.
        """
        version = self._version
        if version.status == "active":
            return name
        if name not in version.tables:
            raise not_its_own(version, [name])
        return beside(name, version.version)


def not_its_own(version: ProjectionVersion, tables: Sequence[str]) -> ProjectionError:
    """EB6016: what is built would write what serves."""
    named = ", ".join(tables)
    return ProjectionError(
        "EB6016",
        f"projection {version.name!r} would write {named}, while another version is built",
        where=f"apply of {version.name!r}, version {version.version}",
        why="a rebuild writes only tables of its own, beside those that serve",
        next=f'name each in tables = (…), and in SQL by view.table("{tables[0]}")',
    )
