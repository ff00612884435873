"""bus.events: the log in code, and behind `eventbus event`."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from eventbus.codec import Encoder, Registry
from eventbus.errors import SourcingError
from eventbus.event import Event
from eventbus.keyring import Keyring, Rewrapped, no_keyring
from eventbus.message import NO_HEADERS, Message
from eventbus.sealing import Subject
from eventbus.service import end
from eventbus.sourcing.forgetting import Encode, forget
from eventbus.sourcing.inline import Inline
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.tail import Tail
from eventbus.storage import Storage
from eventbus.storage.events import (
    EVERYTHING,
    Append,
    Appended,
    Expected,
    FeedPage,
    Filter,
    Position,
    StreamHead,
)
from eventbus.storage.subject_keys import Shredded

START: Position = Position(0)
PAGE = 1000  # events
MAX_BODY = 1 << 20  # bytes, of an operator's events
LOAD = 20_000  # events of a commit of a bulk load
NOTHING_INLINE = Inline(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A piece of the log, in its order."""

    events: Sequence[Recorded]
    read_to: Position  # go on after this, also when a filter let nothing through
    bound: Position  # nothing at or below it will ever appear later


class EventLog:
    """Streams and the feed of all of them; every call is a transaction of its own.

    Args:
        storage: entered with the bus.
        registry: the classes that reading knows.
        encode: events as the messages that are recorded and published.
        inline: projections whose rows are written with the events.
        guard: refuses a call by a task that holds a unit of work.
        keyring: lets go of the keys of who is forgotten.
    """

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        *,
        encode: Encode | None = None,
        inline: Inline = NOTHING_INLINE,
        guard: Callable[[str], None] = lambda _: None,
        keyring: Keyring | None = None,
    ) -> None:
        self._keyring = keyring
        self._storage = storage
        self._registry = registry
        self._encode = encode
        self._inline = inline
        self._guard = guard
        self.tail: Tail = Tail(storage)  # for all who follow in this process

    async def append(
        self,
        stream: str,
        events: Sequence[Event],
        *,
        expected: Expected,
        publish: bool = True,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Appended:
        """Record events, and publish them under the same ids, in one commit.

        Args:
            stream: `category-id`.
            events: of one stream, in their order.
            expected: the version it must be at, or `any`, `absent`, `present`.
            publish: False: they are recorded only.
            headers: further CloudEvents attributes, `tenant` among them.

        Raises:
            ConcurrencyError: EB5003, the stream is elsewhere; nothing was written.
            StreamClosedError: EB5014, archived or tombstoned.
            UnitOfWorkError: EB4104, this task holds a unit of work: append on that.
            CodecError: an event cannot be encoded.
            ProjectionError: EB6015, an inline projection failed at one of them.
            StorageError: nothing is kept, or may be (`CommitUnknownError`).
        """
        self._guard("events.append")
        assert self._encode is not None  # noqa: S101 - only readers are built without
        messages = await self._encode(events, headers)
        append = Append(
            stream=stream,
            messages=messages,
            expected=expected,
            publish=messages if publish else (),
        )
        if not self._inline.concerns(events):
            return await self._storage.append(append)
        async with self._storage.transaction() as tx:
            return await self._inline.append(tx, append, events)

    async def load(
        self,
        streams: Iterable[tuple[str, Sequence[Event]]],
        *,
        skip: bool = False,
        headers: Mapping[str, str] = NO_HEADERS,
        tell: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Bulk load: streams that do not exist yet, each whole; nothing is published.

        A commit every 20,000 events or so. After a failure what was told stays; the same call with
        `skip` goes on.

        Args:
            streams: a name and its events, each name once; may be a generator.
            skip: leave out streams that exist; else they are refused.
            headers: further CloudEvents attributes, `tenant` among them.
            tell: is told after each commit how many events were loaded so far.

        Returns:
            How many events were loaded.

        Raises:
            ConcurrencyError: EB5003, a stream exists; nothing of its commit is kept.
            StorageError: EB5015, a stream without a name or events, or twice in a commit.
            UnitOfWorkError: EB4104, this task holds a unit of work.
            CodecError: an event cannot be encoded.
        """
        self._guard("events.load")
        assert self._encode is not None  # noqa: S101 - only readers are built without
        loaded, size = 0, 0
        waiting: list[tuple[Append, Sequence[Event]]] = []
        for stream, events in streams:
            messages = await self._encode(events, headers)
            append = Append(stream=stream, messages=messages, expected="absent")
            waiting.append((append, events))
            size += len(messages)
            if size >= LOAD:
                loaded += await self._loaded(waiting, skip=skip)
                tell(loaded)
                waiting, size = [], 0
        if waiting:
            loaded += await self._loaded(waiting, skip=skip)
            tell(loaded)
        return loaded

    async def _loaded(
        self, streams: Sequence[tuple[Append, Sequence[Event]]], *, skip: bool
    ) -> int:
        if any(self._inline.concerns(events) for _, events in streams):
            return await self._inline.load(self._storage, streams, skip=skip)
        return await self._storage.load_events([append for append, _ in streams], skip=skip)

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
        page = await self._page(after, limit, upto, only)
        if page.bound < after:
            await self._refuse_ahead(after)
        events = await read(page.events, self._registry)
        return Page(events=events, read_to=page.read_to, bound=page.bound)

    async def subscribe(
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
        if after is not None and after > START:
            await self._refuse_ahead(after)
        async with self.tail.followed():
            found = await self.tail.beyond(None)
            if found is None:
                return
            read_to = seen = found.bound if after is None else after
            server, last = found.server_started, None
            while (found := await self.tail.beyond(read_to, server)) is not None:
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

    async def search(
        self,
        *,
        only: Filter = EVERYTHING,
        where: Callable[[Recorded], bool] = lambda _: True,
        after: Position = START,
        upto: Position | None = None,
    ) -> AsyncGenerator[Recorded, None]:
        """Those that fit, in the order of the log, in constant memory.

        `only` is decided in the database, `where` here: it sees every event that `only` lets
        through, up to the end of the log as it is now.
        """
        bound = (await self._storage.read_bound()).bound
        end_at = bound if upto is None else min(bound, upto)
        async with aclosing(self._pages(after, end_at, only)) as pages:
            async for page in pages:
                for one in await read(page.events, self._registry):
                    if where(one):
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

    async def note(self, stream: str, metadata: Mapping[str, str], *, tenant: str = "") -> None:
        """Replace the metadata of a stream: text by names of yours. Its version stays.

        Raises:
            StorageError: EB5016, there is no such stream, or the metadata are over the limits.
        """
        async with self._storage.transaction() as tx:
            await tx.events.note(stream, metadata, tenant=tenant)

    async def truncate(self, stream: str, *, before: int, tenant: str = "") -> None:
        """Reads of the stream begin at version `before`; retention deletes what lies below."""
        async with self._storage.transaction() as tx:
            await tx.events.truncate(stream, before=before, tenant=tenant)

    async def archive(self, stream: str, *, tenant: str = "") -> None:
        """Take no more events; reads go on."""
        await self._close(stream, "archived", tenant)

    async def tombstone(self, stream: str, *, tenant: str = "") -> None:
        """Take no more events, ever, and show none; retention deletes them."""
        await self._close(stream, "tombstoned", tenant)

    async def forget(
        self, subject: str, *, tenant: str = "", actor: str = "", reason: str = ""
    ) -> Shredded:
        """Destroy the key of a subject's personal data: from now on they read as `Forgotten`.

        In one commit with the deletion of the snapshots it was part of, an audit row, and the
        event `SubjectForgotten` in the log, for projections. Other processes may read the data for
        a minute. Told again, nothing happens. Keep the list of who was forgotten outside of the
        database: a restored backup brings keys back.

        Args:
            subject: the value of the field that `Personal` names, as text.
            tenant: whose subject it is.
            actor: who asks, for the audit.
            reason: why, for the audit.

        Raises:
            UnitOfWorkError: EB4104, this task holds a unit of work.
            PersonalDataError: EB3119, nobody can have a key under this name.
            StorageError: nothing is forgotten, or may be (`CommitUnknownError`): tell it again.
        """
        self._guard("events.forget")
        assert self._encode is not None  # noqa: S101 - only readers are built without
        return await forget(
            self._storage,
            self._keyring,
            self._encode,
            self._inline.append,
            Subject(tenant, subject),
            actor=actor,
            reason=reason,
        )

    async def rewrap(
        self, *, actor: str = "", reason: str = "", dry_run: bool = False
    ) -> Rewrapped:
        """Wrap the keys of personal data with the first master key that another one wrapped.

        While everything runs: the keys stay what they are. A commit per 500, each with an audit
        row; after an interruption the same call goes on. Once every process wraps with the new
        master key, one call that changes nothing says that the old one is needed no more.

        Args:
            actor: who asks, for the audit.
            reason: why, for the audit.
            dry_run: count only.

        Raises:
            ConfigurationError: EB1122, the bus has no master key.
            UnitOfWorkError: EB4104, this task holds a unit of work.
            StorageError: what was committed stays; tell it again.
        """
        self._guard("events.rewrap")
        if self._keyring is None:
            raise no_keyring("bus.events.rewrap", storage=True)
        return await self._keyring.rewrap(actor=actor, reason=reason, dry_run=dry_run)

    async def forgotten(
        self, *, after: Subject | None = None, limit: int = PAGE
    ) -> Sequence[Shredded]:
        """Who is forgotten, by tenant and name, after this one."""
        async with self._storage.transaction() as tx:
            return await tx.subject_keys.shredded(after=after, limit=limit)

    def open(self) -> None:
        """The bus was entered."""
        self.tail.open()

    async def close(self) -> None:
        """The bus is left: every subscription ends."""
        await self.tail.close()

    async def _close(
        self, stream: str, state: Literal["archived", "tombstoned"], tenant: str
    ) -> None:
        async with self._storage.transaction() as tx:
            await tx.events.close(stream, state=state, tenant=tenant)

    async def _pages(
        self, after: Position, upto: Position, only: Filter
    ) -> AsyncGenerator[FeedPage, None]:
        """All of it, the next page being read while the present one is handled."""
        coming: asyncio.Task[FeedPage] | None = None
        try:
            while after < upto:
                page = await (self._page(after, PAGE, upto, only) if coming is None else coming)
                if page.read_to <= after:
                    return
                after = page.read_to
                coming = None
                if after < upto and page.events:
                    coming = asyncio.create_task(
                        self._page(after, PAGE, upto, only), name=f"read:{after}"
                    )
                yield page
        finally:
            if coming is not None:
                await end([coming])

    async def _page(
        self, after: Position, limit: int, upto: Position | None, only: Filter
    ) -> FeedPage:
        async with self._storage.transaction() as tx:
            return await tx.events.read_all(after=after, limit=limit, upto=upto, only=only)

    async def _refuse_ahead(self, after: Position) -> None:
        head = (await self._storage.read_bound()).head
        if after > head:
            raise _ahead(after, head)

    async def _refuse_rewound(self, last: Recorded) -> None:
        """What a crashed server lost is told by its stream: its positions are given again."""
        one = last.recorded
        stream, tenant, version = one.stream, one.message.tenant, one.version
        async with self._storage.transaction() as tx:
            head = await tx.events.head(stream, tenant=tenant)
            found = await tx.events.read_stream(
                stream, after=version - 1, before=version + 1, tenant=tenant
            )
        another = [each for each in found if each.message.id != one.message.id]
        if head is None or head.version < version or another:
            raise _rewound(last)


def operators_log(storage: Storage) -> EventLog:
    """A log without an app: it knows no classes, and seals nothing."""
    encoder = Encoder("/operator", max_body=MAX_BODY)

    async def encode(events: Sequence[Event], headers: Mapping[str, str]) -> list[Message]:
        return [encoder.typed(event, headers, None) for event in events]

    return EventLog(storage, Registry(), encode=encode)


def correlation_of(message: Message) -> str:
    """The flow a message belongs to; one that is in none begins its own."""
    return message.headers.get("correlationid", message.id)


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
