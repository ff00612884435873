"""What a database adapter implements; one file per sub-store, the same names in every adapter."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import entry_points
from typing import Literal, Protocol, TypeVar, cast

from eventbus.errors import ConfigurationError, Finding
from eventbus.storage.checkpoints import Checkpoints
from eventbus.storage.events import Append, Appended, EventStore, ReadBound
from eventbus.storage.inbox import Inbox
from eventbus.storage.leases import Leases
from eventbus.storage.outbox import Outbox
from eventbus.storage.own_tables import OwnTables
from eventbus.storage.parking import Parking
from eventbus.storage.projections import Projections
from eventbus.storage.sagas import Sagas
from eventbus.storage.sql import Sql
from eventbus.storage.subject_keys import SubjectKeys

T = TypeVar("T")
Work = Literal["outbox", "parked", "events", "timers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageCapabilities:
    """What is promised; the conformance suite holds the adapter to it."""

    durable: bool
    shared: bool  # by processes
    concurrent: bool = True  # transactions run at once; else they take turns
    distant: bool = False  # on a server: each statement is a round trip
    longest_idle: timedelta | None = None  # a transaction silent for so long is ended; None: never


class Transaction(Protocol):
    """Everything that commits or rolls back together; used by one task at a time."""

    @property
    def sql(self) -> Sql: ...
    @property
    def events(self) -> EventStore: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def parking(self) -> Parking: ...
    @property
    def checkpoints(self) -> Checkpoints: ...
    @property
    def projections(self) -> Projections: ...
    @property
    def own_tables(self) -> OwnTables: ...
    @property
    def leases(self) -> Leases: ...
    @property
    def sagas(self) -> Sagas: ...
    @property
    def subject_keys(self) -> SubjectKeys: ...
    def resource(self, kind: type[T]) -> T:
        """This transaction's own connection of that kind.

        Raises:
            LookupError: there is none.
        """
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """If the block raises, undo what it wrote, to the outbox too.

        Sent with the block's first statement.
        """
        ...

    def abandon(self) -> None:
        """Give it up, from another task: nothing of it is kept, and it holds nothing any more.

        For a handler that does not end. Returns at once and never raises. Its own task gets
        StorageError (EB5004) from whatever it still does in it, leaving too. A commit that has
        begun is not stopped; a caller's transaction (`enlist`) is only refused from then on.
        """
        ...


class Storage(AbstractAsyncContextManager["Storage"], Protocol):
    """One database: truth and intent become visible together."""

    @property
    def capabilities(self) -> StorageCapabilities: ...
    @property
    def trouble(self) -> str | None:
        """Why it can do nothing at the moment; never awaits."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that commits on leaving; a second one inside it is refused.

        Leaving writes the buffered outbox rows last, then commits, then gives hints. A block that
        does nothing costs nothing.

        Raises:
            StorageError: nothing is kept.
            CommitUnknownError: on leaving; perhaps all of it is kept: `resolve()` asks.
        """
        ...

    def enlist(self, connection: object) -> AbstractAsyncContextManager[Transaction]:
        """Join the caller's transaction: flushes on leaving, never commits."""
        ...

    async def append(self, append: Append) -> Appended:
        """Append in a transaction of its own, perhaps together with those of others (S5).

        Raises:
            ConcurrencyError, StreamClosedError, StorageError: nothing was written.
            CommitUnknownError: perhaps it stands there; the same ids again settle it.
        """
        ...

    async def load_events(self, appends: Sequence[Append], *, skip: bool = False) -> int:
        """Bulk load: streams that do not exist yet, whole, in one commit; how many events it were.

        What the appends expect and publish is not looked at. It holds the feed's bound down while
        it runs: 10,000 to 50,000 events a call are quick, and short enough.

        Args:
            appends: a stream each.
            skip: leave out streams that exist; else they are refused.

        Raises:
            ConcurrencyError: EB5003, a stream exists; nothing was written.
            StorageError: EB5015, the arguments, or a stream is there twice.
        """
        ...

    async def read_bound(self) -> ReadBound:
        """How far the feed can be read at this moment; nothing at or below it appears later."""
        ...

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Return at a hint that there is work, or after `at_most`.

        Sleeping it out is correct (S3).
        """
        ...

    async def upgrade(self) -> None:
        """Bring the schema to this code's version (S8)."""
        ...

    async def prune(self, *, inbox: timedelta, limit: int) -> int:
        """Delete at most `limit` rows of each kind that nobody needs any more; how many went.

        Args:
            inbox: how long identities are kept after handling.
            limit: rows per kind and call, so that no call holds the database for long.
        """
        ...

    async def examine(self) -> Sequence[Finding]:
        """What the configuration, and once entered the database, mean for the promises."""
        ...


Factory = Callable[[str, str], Storage]
"""(url, service) -> Storage: what an entry point of `eventbus.storages` names."""


def open_storage(url: str, service: str) -> Storage:
    """The storage whose entry point is named like the scheme of the URL; connects to nothing.

    Raises:
        ConfigurationError: EB1004, no such scheme; or what the adapter says of the URL.
    """
    scheme, separator, _ = url.partition("://")
    known = {entry.name: entry for entry in entry_points(group="eventbus.storages")}
    if not separator or scheme not in known:
        raise ConfigurationError(
            "EB1004",
            f"no storage is installed for {scheme!r}",
            where=f"storage={scheme}://…" if separator else "storage= without a scheme",
            why=f"installed are: {', '.join(sorted(known)) or 'none'}",
            next="mend the URL, or install the extra that brings the adapter",
        )
    return cast("Factory", known[scheme].load())(url, service)
