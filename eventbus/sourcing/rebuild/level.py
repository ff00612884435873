"""Catching up with the version that serves, and acting while both stand at one position."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from eventbus.codec import Registry
from eventbus.errors import LeaseLostError, StorageError
from eventbus.sourcing.batch import Batches
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.options import START, Options
from eventbus.sourcing.rebuild.owner import Owner
from eventbus.sourcing.rebuild.plan import filter_of
from eventbus.sourcing.recorded import read
from eventbus.sourcing.shard import Shard
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Position
from eventbus.storage.projections import ProjectionVersion

log: logging.Logger = logging.getLogger("eventbus.sourcing")
T = TypeVar("T")

PAGE = 2000  # events
NEAR = 2000  # positions: so close, the rest is read while the old version waits
BOUND_TRIES, BOUND_SECONDS = 20, 0.01  # appends that are not projected inline, on their way
MET_OTHERS = frozenset({"EB5007", "EB5011", "EB6008"})


class Level:
    """The new version's shards, and how they come to where the old version stands.

    Args:
        storage: entered.
        definition: the code that is followed with.
        registry: decodes what is recorded.
        encode: not used for effects: they are off.
        old: the version that serves.
        shards: of the new one, leased.
        options: which events are in it.
        owner: is told how far it is.
    """

    def __init__(
        self,
        storage: Storage,
        definition: Definition,
        registry: Registry,
        *,
        encode: Encode,
        old: ProjectionVersion,
        shards: Sequence[Shard],
        options: Options,
        owner: Owner,
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._batches = Batches(definition, encode, Random())  # noqa: S311 - jitter
        self._only = filter_of(definition, options)
        self._old = old
        self._inline = "inline" in {old.runs, definition.runs}
        self._shards = shards
        self._owner = owner

    async def catch_up(self) -> None:
        """Never beyond the old version: then both can stand at one position."""
        shards = self._shards
        first = min(shard.position for shard in shards)
        while True:
            upto = await self._old_position()
            here = min(shard.position for shard in shards)
            await self._owner.say("catch up", done=max(0, here - first), total=max(0, upto - first))
            if here >= upto or upto - here <= NEAR:
                return
            await self._page(upto)

    async def act(self, act: Callable[[Transaction], Awaitable[T]]) -> T:
        """Act in a transaction in which both versions stand at one position, and nobody moves.

        Raises:
            ProjectionError: EB6013, the old version's workers never stood together, or it never
                came to where the new one stands.
        """
        old, shards = self._old, self._shards
        for attempt in range(refusals.TRIES):
            await self.catch_up()
            before = [(shard.position, set(shard.held)) for shard in shards]
            try:
                async with self._storage.transaction() as tx:
                    place = await self._held(tx)
                    if place is not None and self._at <= place:
                        await self._level(tx, place)
                        return await act(tx)
            except StorageError as error:
                for shard, (position, held) in zip(shards, before, strict=True):
                    shard.forget(position, held)
                if isinstance(error, LeaseLostError) or error.code not in MET_OTHERS:
                    raise
                log.info("%s: again after %s", old.name, error.what)
            await rest(attempt)
        raise refusals.never_level(old.name, await self._old_position(), self._at)

    @property
    def _at(self) -> Position:
        """Where the new version stands: its foremost shard."""
        return max(shard.position for shard in self._shards)

    async def put_back(self, tx: Transaction) -> None:
        """The old version's checkpoints, if they are ahead of the log: within `act`, to switch."""
        await tx.checkpoints.put_back(_prefix(self._old), to=self._shards[0].position)

    async def _held(self, tx: Transaction) -> Position | None:
        """Where the old version stands, which now does not move; None: at no single place."""
        old = self._old
        standing = await tx.projections.hold(old.name, inline=self._inline)
        if self._inline:
            return await _end_of_log(tx)
        end = await tx.events.read_bound()
        places = {
            at if at <= end.head else end.bound  # ahead of a log that lost its end
            for one, at in standing.items()
            if one.startswith(_prefix(old))
        }
        return places.pop() if len(places) == 1 else None

    async def _level(self, tx: Transaction, upto: Position) -> None:
        for shard in self._shards:
            while shard.position < upto:
                page = await tx.events.read_all(
                    after=shard.position, limit=PAGE, upto=upto, only=self._only
                )
                events = await read(page.events, self._registry, tx)
                shard.held |= await self._batches.page_within(tx, shard, events, page.read_to)
                shard.position = page.read_to

    async def _page(self, upto: Position) -> None:
        after = min(shard.position for shard in self._shards)
        async with self._storage.transaction() as tx:
            page = await tx.events.read_all(after=after, limit=PAGE, upto=upto, only=self._only)
        events = await read(page.events, self._registry)
        for shard in self._shards:
            if shard.position < page.read_to:
                await self._batches.page(self._storage, shard, events, page.read_to)

    async def _old_position(self) -> Position:
        old = self._old
        if self._inline:
            return (await self._storage.read_bound()).bound
        end = await self._storage.read_bound()
        async with self._storage.transaction() as tx:
            standing = await tx.checkpoints.positions(_prefix(old))
        at = min(standing.values(), default=START)
        return at if at <= end.head else end.bound


def _prefix(version: ProjectionVersion) -> str:
    """Of its checkpoints."""
    return f"{version.name}@{version.version}/"


async def _end_of_log(tx: Transaction) -> Position | None:
    """Where it ends, once nobody is about to append below it; None: somebody takes long.

    Who is about to may wait for us: it projects inline too, after what else it appended.
    """
    for _ in range(BOUND_TRIES):
        found = await tx.events.read_bound()
        if found.bound == found.head:
            return found.bound
        await asyncio.sleep(BOUND_SECONDS)
    return None


async def rest(attempt: int) -> None:
    """Before the next try."""
    await asyncio.sleep(min(0.5, 0.01 * (attempt + 1)))
