"""The scan for a projection of the general form: it gets pages, and writes itself."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from random import Random

from eventbus.codec import Registry
from eventbus.errors import CodecError
from eventbus.sourcing.batch import Batches
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild.marks import MOST_PARKED, marked, place_of, unreadable
from eventbus.sourcing.rebuild.options import Options, Report
from eventbus.sourcing.rebuild.pages import pages_of
from eventbus.sourcing.rebuild.plan import filter_of
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.shard import Shard, loaded_keys
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage
from eventbus.storage.events import FeedPage, Position
from eventbus.storage.leases import Lease
from eventbus.storage.projections import ProjectionVersion


class Replay:
    """One part of the streams, by hash, of everything up to `built_to`; all streams if it is alone.

    Each page is a transaction with the mark of its part, so what was cut off goes on where it was.

    Args:
        storage: entered.
        definition: what is built.
        registry: decodes what is recorded.
        version: with its `built_to`.
        encode: not used for effects: they are off.
        options: how it is read.
    """

    def __init__(
        self,
        storage: Storage,
        definition: Definition,
        registry: Registry,
        version: ProjectionVersion,
        *,
        encode: Encode,
        options: Options,
    ) -> None:
        assert version.built_to is not None  # noqa: S101 - planned
        self._storage = storage
        self.definition: Definition = definition
        self._registry = registry
        self.version: ProjectionVersion = version
        self.upto: Position = version.built_to
        self._options = options
        self._batches = Batches(definition, encode, Random())  # noqa: S311 - jitter

    async def part(self, lease: Lease, report: Report) -> None:
        """Apply what the part that the lease is of lacks.

        Args:
            lease: `scan/<name>@<version>/<number>/<of>`.
            report: is told how far it is.

        Raises:
            ProjectionError: EB6009, an event cannot be decoded, or too many fail; EB6016, it writes
                what serves.
            LeaseLostError: somebody else rebuilds.
        """
        number, of = place_of(lease.name)
        only = filter_of(self.definition, self._options)
        if of > 1:
            only = replace(only, share=(number, of))
        async with self._storage.transaction() as tx:
            after = await marked(tx, self.definition, lease.name)
            shard = Shard(self.version, 0, lease, after)
            shard.held = await loaded_keys(tx, shard)
        pages = pages_of(self._storage, after, self.upto, only, self._options)
        async with aclosing(pages):
            async for page in pages:
                await self._page(shard, page)
                report(page.read_to, 0)

    async def _page(self, shard: Shard, page: FeedPage) -> None:
        events = await self._events(page)
        async with self._storage.transaction() as tx:
            mark = shard.lease.name
            await tx.checkpoints.save(mark, page.read_to, after=shard.position, lease=shard.lease)
            parked = await self._batches.write(tx, shard, events, held=shard.held)
            await tx.parking.park(parked, group=shard.group)
        shard.position = page.read_to
        shard.held.update(one.key for one in parked)
        if len(shard.held) > MOST_PARKED:
            raise unreadable(self.definition, events[-1], f"{len(shard.held)} streams failed")

    async def _events(self, page: FeedPage) -> Sequence[Recorded]:
        events = await read(page.events, self._registry)
        since = self._options.since
        if isinstance(since, datetime):
            events = [one for one in events if one.recorded.recorded_at >= since]
        if self.definition.classes:  # who takes every event decodes what it can by itself
            for one in events:
                try:
                    one.event  # noqa: B018 - it is kept
                except CodecError as error:
                    raise unreadable(self.definition, one, error) from error
        return events
