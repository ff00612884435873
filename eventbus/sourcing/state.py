"""How a stream becomes a state: its snapshot, and the events behind it, in their order."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar, cast

from eventbus.errors import ConcurrencyError, SourcingError
from eventbus.event import Event
from eventbus.handler import UnitOfWork
from eventbus.sealing import Key, opened_as_a_whole, sealed_as_a_whole
from eventbus.sourcing.snapshots import StateForm
from eventbus.storage.events import Loaded, RecordedMessage, Snapshot

S = TypeVar("S")
PAGE = 1000  # events


@dataclass(slots=True)
class Folded(Generic[S]):
    """A state, and where it stands."""

    state: S
    version: int  # of the stream
    since: int = 0  # events behind the snapshot it began with
    keys: dict[bytes, Key] = field(default_factory=dict[bytes, Key])  # of whom it knows something


class Folding(Generic[S]):
    """Reads one kind of stream; the core of command handlers and aggregates.

    Args:
        kind: what its snapshots are kept under.
        begin: the state of a stream without events, by its name.
        evolve: the state after an event.
        form: how it is written in snapshots; None: none are read or taken.
        due: whether a snapshot is due, by (state, events since the last).
        reads: the wire types that change the state; others are not decoded. None: all of them.
    """

    def __init__(
        self,
        *,
        kind: str,
        begin: Callable[[str], S],
        evolve: Callable[[S, Event], S],
        form: StateForm[S] | None,
        due: Callable[[S, int], bool],
        reads: Collection[str] | None = None,
    ) -> None:
        self._kind = kind
        self._begin = begin
        self._evolve = evolve
        self._form = form
        self._due = due
        self._reads = reads

    @property
    def schema_hash(self) -> bytes:
        """Of the snapshots that are read; none are: empty."""
        return b"" if self._form is None else self._form.hash

    async def load(self, stream: str, tx: UnitOfWork) -> Folded[S]:
        """The state of a stream; if a snapshot is due it is taken later, by somebody else.

        Raises:
            CodecError: an event of the stream cannot be read.
            StorageError: the database refused.
        """
        loaded = await self._loaded(stream, tx.tenant, tx)
        folded = await self._folded(stream, loaded, tx.tenant, tx)
        if self._form is not None and self._due(folded.state, folded.since):
            tx.afterwards(
                f"snapshot of {self._kind}: {tx.tenant}/{stream}",
                partial(self.keep, stream, tx.tenant),
            )
        return folded

    async def catch_up(
        self, stream: str, folded: Folded[S], error: ConcurrencyError, tx: UnitOfWork
    ) -> None:
        """Fold what was appended since: what came with the error, and what did not fit into it."""
        await self._fold(folded, error.conflicting, tx)
        while tail := await self._tail(stream, folded.version, error.version, tx):
            await self._fold(folded, tail, tx)

    async def keep(self, stream: str, tenant: str, tx: UnitOfWork) -> None:
        """Take a snapshot of what is committed, whatever became of who asked for it.

        A state that cannot be kept is said once: no further snapshot is taken.

        Raises:
            SourcingError: EB4203.
        """
        loaded = await self._loaded(stream, tenant, tx)
        if self._form is None or not loaded.tail:
            return
        folded = await self._folded(stream, loaded, tenant, tx)
        try:
            state = self._form.write(folded.state)
        except SourcingError:
            self._form = None
            raise
        snapshot = Snapshot(
            kind=self._kind,
            schema_hash=self._form.hash,
            version=folded.version,
            position=loaded.tail[-1].position,
            state=sealed_as_a_whole(state, list(folded.keys.values())),
        )
        await tx.storage.events.save_snapshot(stream, snapshot, tenant=tenant)

    async def _loaded(self, stream: str, tenant: str, tx: UnitOfWork) -> Loaded:
        return await tx.storage.events.load(
            stream, kind=self._kind, schema_hash=self.schema_hash, tenant=tenant
        )

    async def _tail(
        self, stream: str, after: int, upto: int | None, tx: UnitOfWork
    ) -> Sequence[RecordedMessage]:
        if upto is not None and after >= upto:
            return ()
        return await tx.storage.events.read_stream(
            stream, after=after, limit=PAGE, tenant=tx.tenant
        )

    async def _folded(self, stream: str, loaded: Loaded, tenant: str, tx: UnitOfWork) -> Folded[S]:
        if loaded.snapshot is None or self._form is None:
            folded = Folded(self._begin(stream), 0)
        else:
            keys = await tx.keys([loaded.snapshot.state])
            try:
                written, used = opened_as_a_whole(loaded.snapshot.state, keys)
                state = self._form.read(written)
            except ValueError:  # never the truth: without it the state is the same, only later
                folded = await self._from_the_start(stream, tenant, tx)
                folded.version = max(folded.version, loaded.version)  # what was cut counts too
                return folded
            folded = Folded(state, loaded.snapshot.version, keys=dict(used))
        await self._fold(folded, loaded.tail, tx)
        folded.version = loaded.version
        return folded

    async def _from_the_start(self, stream: str, tenant: str, tx: UnitOfWork) -> Folded[S]:
        folded = Folded(self._begin(stream), 0)
        while tail := await tx.storage.events.read_stream(
            stream, after=folded.version, limit=PAGE, tenant=tenant
        ):
            await self._fold(folded, tail, tx)
        return folded

    async def _fold(
        self, folded: Folded[S], tail: Sequence[RecordedMessage], tx: UnitOfWork
    ) -> None:
        openings = await tx.openings([recorded.message for recorded in tail])
        state = folded.state
        for recorded, opening in zip(tail, openings, strict=True):
            if self._reads is None or recorded.type in self._reads:
                event = tx.decode(recorded.message, opening)
                state = self._evolve(state, cast("Event", event))
                if opening is not None:
                    folded.keys |= opening.used
        folded.state = state
        folded.since += len(tail)
        if tail:
            folded.version = tail[-1].version


def kind_of(thing: Any) -> str:
    """What snapshots of a class are kept under; renaming it makes them new."""
    return f"{thing.__module__}.{thing.__qualname__}"
