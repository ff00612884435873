"""The log page by page, and everything after a position for whoever follows it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

from eventbus.codec import Registry
from eventbus.errors import SourcingError
from eventbus.service import end
from eventbus.sourcing.recorded import Recorded, one_by_one, read
from eventbus.sourcing.tail import Tail
from eventbus.storage import Storage
from eventbus.storage.events import EVERYTHING, FeedPage, Filter, Position

PAGE = 1000  # events, of who asks for one page
LONG_PAGE = 2000  # of who goes over the log: what a page costs is shared by twice as many (0044)
AT_ONCE = 100  # of them are handed out before others have a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A piece of the log, in its order."""

    events: Sequence[Recorded]
    read_to: Position  # go on after this, also when a filter let nothing through
    bound: Position  # nothing at or below it will ever appear later


class Feed:
    """The events of all streams in one order.

    Args:
        storage: entered with the bus.
        registry: the classes that reading knows.
    """

    def __init__(self, storage: Storage, registry: Registry) -> None:
        self._storage = storage
        self._registry = registry

    async def page(
        self, after: Position, *, limit: int, upto: Position | None, only: Filter
    ) -> Page:
        """What stands behind a position.

        Raises:
            SourcingError: EB4205, the log ends before `after`.
        """
        page = await self._stored(after, limit, upto, only)
        if page.bound < after:
            await self.refuse_ahead(after)
        events = await read(page.events, self._registry)
        return Page(events=events, read_to=page.read_to, bound=page.bound)

    async def between(
        self, after: Position, upto: Position | None, only: Filter = EVERYTHING
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        """What stands after a position, up to another one; None: to the end of the log as it is.

        In pieces: between two of them the loop has a turn, and with it the next page.
        """
        bound = (await self._storage.read_bound()).bound
        end_at = bound if upto is None else min(bound, upto)
        async with aclosing(self._pages(after, end_at, only)) as pages:
            async for page in pages:
                events = await one_by_one(page.events, self._registry)
                while piece := list(islice(events, AT_ONCE)):
                    await asyncio.sleep(0)
                    yield piece

    async def follow(
        self, tail: Tail, after: Position | None, only: Filter
    ) -> AsyncGenerator[Recorded, None]:
        """Every event after a position, and what is recorded meanwhile, until the tail is closed.

        Raises:
            SourcingError: EB4205, the log ends before `after`. EB4207, the server came back without
                an event that was seen here.
        """
        if after is not None and after > 0:
            await self.refuse_ahead(after)
        async with tail.followed():
            found = await tail.beyond(None)
            if found is None:
                return
            read_to = seen = found.bound if after is None else after
            server, last = found.server_started, None
            while (found := await tail.beyond(read_to, server)) is not None:
                if found.server_started != server:  # its sequence may have gone back
                    if last is not None:
                        await self._refuse_rewound(last)
                    read_to, server = seen, found.server_started
                async with aclosing(self._pages(read_to, found.bound, only)) as pages:
                    async for page in pages:
                        for one in await read(page.events, self._registry):
                            yield one
                            seen, last = one.recorded.position, one
                        read_to = page.read_to

    async def refuse_ahead(self, after: Position) -> None:
        """Refuse a position that no event of this log has reached.

        Raises:
            SourcingError: EB4205.
        """
        head = (await self._storage.read_bound()).head
        if after > head:
            raise _ahead(after, head)

    async def _pages(
        self, after: Position, upto: Position, only: Filter
    ) -> AsyncGenerator[FeedPage, None]:
        """All of it, the next page being read while the present one is handled."""
        coming: asyncio.Task[FeedPage] | None = None
        try:
            while after < upto:
                page = await (
                    self._stored(after, LONG_PAGE, upto, only) if coming is None else coming
                )
                if page.read_to <= after:
                    return
                after = page.read_to
                coming = None
                if after < upto and page.events:
                    coming = asyncio.create_task(
                        self._stored(after, LONG_PAGE, upto, only), name=f"read:{after}"
                    )
                yield page
        finally:
            if coming is not None:
                await end([coming])

    async def _stored(
        self, after: Position, limit: int, upto: Position | None, only: Filter
    ) -> FeedPage:
        async with self._storage.transaction() as tx:
            return await tx.events.read_all(after=after, limit=limit, upto=upto, only=only)

    async def _refuse_rewound(self, last: Recorded) -> None:
        """What a crashed server lost is told by its stream: its positions are given again."""
        one = last.recorded
        stream, tenant, version = one.stream, one.tenant, one.version
        async with self._storage.transaction() as tx:
            head = await tx.events.head(stream, tenant=tenant)
            found = await tx.events.read_stream(
                stream, after=version - 1, before=version + 1, tenant=tenant
            )
        another = [each for each in found if each.message.id != one.message.id]
        if head is None or head.version < version or another:
            raise _rewound(last)


def _ahead(after: Position, head: Position) -> SourcingError:
    return SourcingError(
        "EB4205",
        f"position {after} is ahead of the log, which ends at {head}",
        where="bus.events",
        why="the position is of another log, or this one was restored from an older backup",
        next="begin after a position of this log; 0 reads it from the start",
    )


def _rewound(last: Recorded) -> SourcingError:
    one = last.recorded
    return SourcingError(
        "EB4207",
        f"the log came back without the event at position {one.position}",
        where=f"bus.events.subscribe: {one.stream}@{one.version}, id {one.message.id}",
        why="the server crashed with synchronous_commit = off, or an older copy took its place:"
        " what was recorded last is lost, and its positions are given again",
        next="undo what was made of it, and begin after an event that the log still has",
    )
