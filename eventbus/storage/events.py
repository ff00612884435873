"""The event log: streams with expected versions, and one feed in an order that stays (S5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NewType, Protocol

from eventbus.message import Message

Position = NewType("Position", int)  # store it, compare it, never compute with it
Expected = int | Literal["any", "absent", "present"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """What one call appends to one stream."""

    stream: str
    messages: Sequence[Message]  # of one tenant: the stream's
    expected: Expected
    publish: Sequence[Message] = ()  # outbox rows of the same commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """Where it stands now."""

    version: int  # of the stream, now
    position: Position  # of the last event
    repeated: bool  # the same ids stood there already: a retry


class RecordedMessage(Protocol):
    """A message with its place in a stream and in the log; two are equal if all of it is.

    Whoever reads many asks for `type`, `schema_version`, `payload` and `tenant`: the message, with
    its headers, may be made when it is asked for.
    """

    @property
    def message(self) -> Message: ...
    @property
    def type(self) -> str: ...  # of the message
    @property
    def payload(self) -> bytes: ...  # of the message
    @property
    def tenant(self) -> str: ...  # of the message, or empty
    @property
    def stream(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def position(self) -> Position: ...
    @property
    def recorded_at(self) -> datetime: ...
    @property
    def schema_version(self) -> int: ...  # 0: its header says one that no column holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A folded state: never the truth."""

    kind: str
    schema_hash: bytes  # of the state's model; another hash is ignored, never migrated
    version: int
    position: Position
    state: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A stream from its snapshot on."""

    snapshot: Snapshot | None
    tail: Sequence[RecordedMessage]
    version: int  # 0: the stream does not exist


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBound:
    """How far the feed can be read."""

    bound: Position  # nothing at or below it will ever appear later
    head: Position
    server_started: datetime | None  # changed: drop a bound kept in memory (storage.md 7.2, trap c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who may still append below the head."""

    pid: int  # of the server
    application: str
    seconds: float | None  # its transaction is open; None: not ours to know


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPage:
    """A piece of the feed, in its order."""

    events: Sequence[RecordedMessage]
    read_to: Position  # go on after this, also when a filter let nothing through
    bound: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Decided in the database; empty or None: all."""

    types: tuple[str, ...] = ()
    category: str | None = None
    tenant: str | None = None
    streams: tuple[str, ...] = ()
    share: tuple[int, int] | None = None  # (number, of): a stream is always in the same share


EVERYTHING = Filter()
Closed = Literal["archived", "tombstoned"]
StreamState = Literal["open"] | Closed


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """A stream without its events."""

    version: int
    state: StreamState
    kept_from: int  # the first version that reads show; 1: all of them
    metadata: Mapping[str, str]  # of a tombstoned one: nothing


class EventStore(Protocol):
    """The log within a transaction."""

    # ConcurrencyError: nothing was written; with the conflicting events if asked for
    async def append(self, append: Append, *, conflicting: bool = False) -> Appended: ...
    async def load(  # snapshot and tail, one round trip
        self, stream: str, *, kind: str, schema_hash: bytes, tenant: str = ""
    ) -> Loaded: ...
    async def save_snapshot(  # an older one of the same schema hash never replaces a newer
        self, stream: str, snapshot: Snapshot, *, tenant: str = ""
    ) -> None: ...
    async def read_stream(
        self,
        stream: str,
        *,
        after: int = 0,
        before: int | None = None,
        until: datetime | None = None,
        limit: int = 1000,
        backwards: bool = False,
        tenant: str = "",
    ) -> Sequence[RecordedMessage]: ...
    # up to the bound, or to `upto` below it; never gains an earlier entry later (S5)
    async def read_all(
        self,
        *,
        after: Position,
        limit: int,
        upto: Position | None = None,
        only: Filter = EVERYTHING,
    ) -> FeedPage: ...
    async def read_bound(self) -> ReadBound: ...  # what this transaction appended lies above it
    async def holders(self) -> Sequence[Holder]: ...  # who holds the bound, the lowest first; few
    async def head(self, stream: str, *, tenant: str = "") -> StreamHead | None:
        """How a stream stands; None: it never had an event."""
        ...

    async def note(self, stream: str, metadata: Mapping[str, str], *, tenant: str = "") -> None:
        """Replace the metadata of a stream; its version stays.

        Raises:
            StorageError: EB5016, there is no such stream, it is tombstoned, or the metadata are
                more than 64 names or 8 KiB.
        """
        ...

    async def truncate(
        self, stream: str, *, before: int, tenant: str = "", actor: str = "", reason: str = ""
    ) -> bool:
        """Reads of the stream begin at version `before`; retention deletes what lies below.

        Returns:
            True: it was cut, and an audit row says by whom. False: nothing was changed; it begins
            there or later, ends below `before - 1`, is tombstoned, or there is no such stream.
        """
        ...

    async def close(
        self,
        stream: str,
        *,
        state: Closed,
        tenant: str = "",
        actor: str = "",
        reason: str = "",
    ) -> bool:
        """Take no more events, ever; tombstoned, show none either, and retention deletes them.

        Returns:
            True: it was closed, and an audit row says by whom. False: nothing was changed; it was
            closed like that or further, or there is no such stream.
        """
        ...
