"""The scan of a rebuild: the log up to a position, folded in memory, copied in one transaction."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any

from eventbus.codec import Registry
from eventbus.errors import ProjectionError, StorageError
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild.marks import mark_name, marked, place_of
from eventbus.sourcing.rebuild.options import START, Options, Report
from eventbus.sourcing.rebuild.pages import pages_of
from eventbus.sourcing.rebuild.plan import filter_of
from eventbus.sourcing.rebuild.shadow_rows import ShadowRows
from eventbus.sourcing.recorded import Recorded, one_by_one
from eventbus.sourcing.shard import shard_name
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import FeedPage, Filter, Position
from eventbus.storage.leases import Lease
from eventbus.storage.projections import ProjectionVersion, Table

log: logging.Logger = logging.getLogger("eventbus.sourcing")


class Scan:
    """One part of the keys, by hash, of everything up to `built_to`.

    Args:
        storage: entered.
        definition: what is built.
        registry: decodes what is recorded.
        version: with its `built_to`.
        table: the shadow.
        options: how it is read.
    """

    def __init__(
        self,
        storage: Storage,
        definition: Definition,
        registry: Registry,
        version: ProjectionVersion,
        table: Table,
        *,
        options: Options,
    ) -> None:
        assert version.built_to is not None  # noqa: S101 - planned
        self._storage = storage
        self.definition: Definition = definition
        self._registry = registry
        self.version: ProjectionVersion = version
        self.upto: Position = version.built_to
        self._table = table
        self._options = options

    async def part(self, lease: Lease, report: Report) -> None:
        """Copy the part that the lease is of, unless its mark says that it is there.

        A part that was cut off left nothing, and is done again. One that has too many rows for the
        memory is marked as done with two marks of halves instead.

        Args:
            lease: `scan/<name>@<version>/<number>/<of>`.
            report: is told how far it is.

        Raises:
            ProjectionError: EB6009, an event cannot be decoded, or a row fits no column.
            LeaseLostError: somebody else rebuilds.
        """
        mark, number, of = lease.name, *place_of(lease.name)
        async with self._storage.transaction() as tx:
            done = await marked(tx, self.definition, mark)
        if done >= self.upto:
            return
        try:
            rows = await self._folded(number, of, report)
        except _TooManyError:
            await self._split(lease, number, of)
            return
        records = rows.written()
        async with self._storage.transaction() as tx:
            await self._copied(tx, records)
            for shard, waiting in rows.parked.items():
                name = f"projection:{shard_name(self.version, shard)}"
                await tx.parking.park(waiting, group=name)
            # last: it locks the lease, which is to be renewed while rows are copied
            await tx.checkpoints.save(mark, self.upto, after=done, lease=lease)
            await tx.projections.progress(
                mark, "done", done=self.upto, total=self.upto, rows=len(records)
            )

    async def _folded(self, number: int, of: int, report: Report) -> ShadowRows:
        rows = ShadowRows(self.definition, self.version, number=number, of=of)
        pages = pages_of(self._storage, START, self.upto, self._only(number, of), self._options)
        async with aclosing(pages):
            async for page in pages:
                for event in await self._events(page):
                    rows.take(event)
                report(page.read_to, len(rows))
                if len(rows) > self._options.most_rows:
                    raise _TooManyError
        return rows

    def _only(self, number: int, of: int) -> Filter:
        only = filter_of(self.definition, self._options)
        if self.definition.by_stream and of > 1:
            return replace(only, share=(number, of))
        return only

    async def _events(self, page: FeedPage) -> Iterable[Recorded]:
        events = await one_by_one(page.events, self._registry)
        since = self._options.since
        if not isinstance(since, datetime):
            return events
        return (one for one in events if one.recorded.recorded_at >= since)

    async def _copied(self, tx: Transaction, records: Sequence[Sequence[Any]]) -> None:
        try:
            await tx.projections.load(self._table, records)
        except StorageError as error:
            if not self.definition.by_stream or error.code != "EB5005":
                raise
            raise ProjectionError(
                "EB6009",
                f"projection {self.definition.name!r} cannot be rebuilt in parts by stream",
                where=f"copying into {self._table.name}",
                why=f"two parts made the same row: {error.why}",
                next="leave out by_stream=: a row has events of several streams",
            ) from error

    async def _split(self, lease: Lease, number: int, of: int) -> None:
        log.info("%s has more than %d rows: two halves", lease.name, self._options.most_rows)
        async with self._storage.transaction() as tx:
            for half in (number, number + of):
                await marked(tx, self.definition, mark_name(self.version, half, 2 * of))
            await tx.checkpoints.save(lease.name, self.upto, after=START, lease=lease)
            await tx.projections.progress(
                lease.name, "split", done=self.upto, total=self.upto, rows=0
            )


class _TooManyError(Exception):
    """The rows of a part do not fit into memory."""
