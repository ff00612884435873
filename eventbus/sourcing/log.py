"""bus.events: the log in code, and behind `eventbus event`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter

from eventbus.codec import Encoder, Registry
from eventbus.errors import CommitUnknownError
from eventbus.event import Event
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.keyring import Keyring, Rewrapped, no_keyring
from eventbus.message import NO_HEADERS, Message
from eventbus.sealing import Subject
from eventbus.sourcing.feed import PAGE
from eventbus.sourcing.forgetting import Encode, forget
from eventbus.sourcing.inline import Inline
from eventbus.sourcing.life import close, truncate
from eventbus.sourcing.loading import load
from eventbus.sourcing.reader import EventReader
from eventbus.storage import Storage
from eventbus.storage.events import Append, Appended, Expected
from eventbus.storage.subject_keys import Shredded

MAX_BODY = 1 << 20  # bytes, of an operator's events
NOTHING_INLINE = Inline(())


class EventLog(EventReader):
    """Streams and the feed of all of them; every call is a transaction of its own.

    Args:
        storage: entered with the bus.
        registry: the classes that reading knows.
        encode: events as the messages that are recorded and published.
        inline: projections whose rows are written with the events.
        guard: refuses a call by a task that holds a unit of work.
        keyring: lets go of the keys of who is forgotten.
        instrumentation: is told how long appends take.
    """

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        *,
        encode: Encode,
        inline: Inline = NOTHING_INLINE,
        guard: Callable[[str], None] = lambda _: None,
        keyring: Keyring | None = None,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        super().__init__(storage, registry)
        self._encode = encode
        self._inline = inline
        self._guard = guard
        self._keyring = keyring
        self._instrumentation = instrumentation

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
        messages = await self._encode(events, headers)
        append = Append(
            stream=stream,
            messages=messages,
            expected=expected,
            publish=messages if publish else (),
        )
        began = perf_counter()
        try:
            appended = await self._append(append, events)
        except CommitUnknownError as error:
            count_unknown(self._instrumentation, error, "append", "raised")
            raise
        if self._instrumentation is not None:
            self._instrumentation.observe("append_duration_seconds", perf_counter() - began)
        return appended

    async def _append(self, append: Append, events: Sequence[Event]) -> Appended:
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
        return await load(
            self._storage,
            self._inline,
            self._encode,
            streams,
            skip=skip,
            headers=headers,
            tell=tell,
        )

    async def note(self, stream: str, metadata: Mapping[str, str], *, tenant: str = "") -> None:
        """Replace the metadata of a stream: text by names of yours. Its version stays.

        Raises:
            StorageError: EB5016, there is no such stream, or the metadata are over the limits.
        """
        async with self._storage.transaction() as tx:
            await tx.events.note(stream, metadata, tenant=tenant)

    async def truncate(
        self, stream: str, *, before: int, tenant: str = "", actor: str = "", reason: str = ""
    ) -> bool:
        """Reads of the stream begin at version `before`; retention deletes what lies below.

        The feed shows it until then. With an audit row.

        Args:
            stream: its name.
            before: the first version that is kept; one more than the last one keeps nothing.
            tenant: whose stream it is.
            actor: who asks, for the audit.
            reason: why, for the audit.

        Returns:
            False: it began there or later already; nothing was changed.

        Raises:
            StorageError: EB5017, there is no such stream or version, or it is tombstoned.
        """
        return await truncate(
            self._storage, stream, before=before, tenant=tenant, actor=actor, reason=reason
        )

    async def archive(
        self, stream: str, *, tenant: str = "", actor: str = "", reason: str = ""
    ) -> bool:
        """Take no more events, ever; reads go on. With an audit row.

        Returns:
            False: it was archived or tombstoned already; nothing was changed.

        Raises:
            StorageError: EB5017, there is no such stream.
        """
        return await close(
            self._storage, stream, state="archived", tenant=tenant, actor=actor, reason=reason
        )

    async def tombstone(
        self, stream: str, *, tenant: str = "", actor: str = "", reason: str = ""
    ) -> bool:
        """Take no more events, ever, and show none; retention deletes them. With an audit row.

        The name is never used again.

        Returns:
            False: it was tombstoned already; nothing was changed.

        Raises:
            StorageError: EB5017, there is no such stream.
        """
        return await close(
            self._storage, stream, state="tombstoned", tenant=tenant, actor=actor, reason=reason
        )

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


def operators_log(storage: Storage, registry: Registry) -> EventLog:
    """A log without a bus: it seals nothing."""
    encoder = Encoder("/operator", max_body=MAX_BODY)

    async def encode(events: Sequence[Event], headers: Mapping[str, str]) -> list[Message]:
        return [encoder.typed(event, headers, None) for event in events]

    return EventLog(storage, registry, encode=encode)
