"""The log, looked into: streams, the feed of all of them, and whoever follows it."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime

from eventbus.codec import Registry
from eventbus.message import Message
from eventbus.sourcing.feed import PAGE, Feed, Page
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.tail import Tail
from eventbus.storage import Storage
from eventbus.storage.events import EVERYTHING, Filter, Position, StreamHead

START: Position = Position(0)


class EventReader:
    """Reads the log; every call is a transaction of its own.

    Args:
        storage: entered with the bus.
        registry: the classes that reading knows.
    """

    def __init__(self, storage: Storage, registry: Registry) -> None:
        self._storage = storage
        self._registry = registry
        self._feed = Feed(storage, registry)
        self.tail: Tail = Tail(storage)  # for all who follow in this process

    async def read(
        self,
        stream: str,
        *,
        after: int = 0,
        before: int | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        backwards: bool = False,
        tenant: str = "",
    ) -> Sequence[Recorded]:
        """A stream's events with after < version < before, recorded by `until`; at most `limit`."""
        async with self._storage.transaction() as tx:
            found = await tx.events.read_stream(
                stream,
                after=after,
                before=before,
                until=until,
                limit=limit,
                backwards=backwards,
                tenant=tenant,
            )
            return await read(found, self._registry, tx)

    async def read_all(
        self,
        *,
        after: Position = START,
        limit: int = PAGE,
        upto: Position | None = None,
        only: Filter = EVERYTHING,
    ) -> Page:
        """A page of the feed of all streams; go on after its `read_to`.

        Raises:
            SourcingError: EB4205, the log ends before `after`.
        """
        return await self._feed.page(after, limit=limit, upto=upto, only=only)

    def subscribe(
        self, *, after: Position | None = START, only: Filter = EVERYTHING
    ) -> AsyncGenerator[Recorded, None]:
        """Everything after a position, in its order, and what is recorded while somebody asks.

        Ends when the bus is left; whoever breaks out of it sooner closes it (`aclosing`). Nothing
        remembers how far it came: keep `recorded.position` with
        what you do, and begin after it the next time.

        Args:
            after: the last position that was seen; None: from what is recorded now on.
            only: decided in the database.

        Raises:
            SourcingError: EB4205, the log ends before `after`. EB4207, the server came back without
                an event that was seen here.
        """
        return self._feed.follow(self.tail, after, only)

    async def search(
        self,
        *,
        only: Filter = EVERYTHING,
        where: Callable[[Recorded], bool] | None = None,
        after: Position = START,
        upto: Position | None = None,
    ) -> AsyncGenerator[Recorded, None]:
        """Those that fit, in the order of the log, in constant memory.

        `only` is decided in the database, `where` here: it sees every event that `only` lets
        through, up to the end of the log as it is now.
        """
        async with aclosing(self._feed.between(after, upto, only)) as pieces:
            async for events in pieces:
                for one in events if where is None else filter(where, events):
                    yield one

    async def trace(self, correlation_id: str, *, only: Filter = EVERYTHING) -> list[Recorded]:
        """What belongs to one flow, in the order in which it happened; reads the whole log."""
        return [
            each
            async for each in self.search(
                only=only,
                where=lambda one: correlation_of(one.recorded.message) == correlation_id,
            )
        ]

    async def show(self, id: str, *, only: Filter = EVERYTHING) -> Recorded | None:
        """The event of an id; None: the log has none. Reads the log up to it."""
        found = self.search(only=only, where=lambda one: one.recorded.message.id == id)
        async with aclosing(found):
            return await anext(found, None)

    async def head(self, stream: str, *, tenant: str = "") -> StreamHead | None:
        """How a stream stands: version, state, what is kept, metadata; None: there is none."""
        async with self._storage.transaction() as tx:
            return await tx.events.head(stream, tenant=tenant)

    def open(self) -> None:
        """The bus was entered."""
        self.tail.open()

    async def close(self) -> None:
        """The bus is left: every subscription ends."""
        await self.tail.close()


def correlation_of(message: Message) -> str:
    """The flow a message belongs to; one that is in none begins its own."""
    return message.headers.get("correlationid", message.id)
