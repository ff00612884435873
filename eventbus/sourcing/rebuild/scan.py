"""The scan of a rebuild: the log up to a position, folded in memory, copied in one transaction."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

from eventbus.codec import Registry
from eventbus.errors import CodecError, ProjectionError, StorageError
from eventbus.sourcing.definition import Definition, shard_of
from eventbus.sourcing.folding import Step
from eventbus.sourcing.parking import Sequences, row_key, stream_key
from eventbus.sourcing.read_model import Key, ReadModel, Rows, key_text
from eventbus.sourcing.rebuild.marks import (
    MOST_PARKED,
    mark_name,
    marked,
    place_of,
    unreadable,
)
from eventbus.sourcing.rebuild.options import START, Options, Report
from eventbus.sourcing.rebuild.pages import pages_of
from eventbus.sourcing.rebuild.plan import filter_of
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.shard import shard_name
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Parked
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
        assert definition.rows is not None  # noqa: S101 - only folding projections are built
        assert version.built_to is not None  # noqa: S101 - planned
        self._storage = storage
        self.definition: Definition = definition
        self._registry = registry
        self.version: ProjectionVersion = version
        self.upto: Position = version.built_to
        self._table = table
        self._options = options
        self._rows: Rows = definition.rows
        self._sequences = Sequences(Random())  # noqa: S311 - jitter

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
            states, parked = await self._folded(number, of, report)
        except _TooManyError:
            await self._split(lease, number, of)
            return
        records = [list(self._written(key, row).values()) for key, row in states.items()]
        async with self._storage.transaction() as tx:
            await self._copied(tx, records)
            for shard, waiting in parked.items():
                name = f"projection:{shard_name(self.version, shard)}"
                await tx.parking.park(waiting, group=name)
            # last: it locks the lease, which is to be renewed while rows are copied
            await tx.checkpoints.save(mark, self.upto, after=done, lease=lease)
            await tx.projections.progress(
                mark, "done", done=self.upto, total=self.upto, rows=len(records)
            )

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

    async def _folded(
        self, number: int, of: int, report: Report
    ) -> tuple[dict[Key, ReadModel], dict[int, list[Parked]]]:
        states: dict[Key, ReadModel] = {}
        since, most = self._options.since, self._options.most_rows
        held: set[Key] = set()
        homes: dict[Key, str] = {}
        parked: dict[int, list[Parked]] = {}
        waiting = 0
        only = filter_of(self.definition, self._options)
        if self.definition.by_stream and of > 1:
            only = replace(only, share=(number, of))
        async with aclosing(
            pages_of(self._storage, START, self.upto, only, self._options)
        ) as pages:
            async for page in pages:
                for place, event in enumerate(await read(page.events, self._registry)):
                    if isinstance(since, datetime) and event.recorded.recorded_at < since:
                        continue
                    for step in self._steps(event, place):
                        if self.definition.by_stream:
                            self._of_one_stream(event, step.key, homes)
                        elif of > 1 and shard_of(key_text(step.key), of) != number:
                            continue
                        if step.key not in held:
                            error = self._fold(states, step)
                            if error is None:
                                continue
                        else:
                            error = None
                        shard, one = self._waits(event, step, error)
                        held.add(step.key)
                        parked.setdefault(shard, []).append(one)
                        waiting += 1
                        if waiting > MOST_PARKED:
                            raise unreadable(self.definition, event, error or one.failure or "")
                report(page.read_to, len(states))
                if len(states) > most:
                    raise _TooManyError
        return states, parked

    def _of_one_stream(self, event: Recorded, key: Key, homes: dict[Key, str]) -> None:
        stream = stream_key(event.recorded)
        if homes.setdefault(key, stream) != stream:
            raise unreadable(
                self.definition, event, f"by_stream=True, but a row has events of {homes[key]} too"
            )

    def _fold(self, states: dict[Key, ReadModel], step: Step) -> Exception | None:
        row = states.get(step.key)
        try:
            after = step.change(self._rows.new(step.key) if row is None else row, step.event)
            if after is None:
                states.pop(step.key, None)
                return None
            if not isinstance(after, self._rows.model) or self._rows.key_of(after) != step.key:
                return TypeError(f"it answered {type(after).__name__}, not this row or None")
        except Exception as error:  # the author's function: whatever it raises
            return error
        states[step.key] = after
        return None

    def _steps(self, event: Recorded, place: int) -> Sequence[Step]:
        try:
            return self.definition.steps(event.event, place)
        except CodecError as error:
            raise unreadable(self.definition, event, error.what) from error
        except Exception as error:  # the author's key function
            raise unreadable(self.definition, event, error) from error

    def _waits(self, event: Recorded, step: Step, error: Exception | None) -> tuple[int, Parked]:
        text = key_text(step.key)
        shard = shard_of(text, self.version.shards)
        if error is None:
            return shard, self._sequences.queued(event, row_key(text), number=step.number)
        return shard, self._sequences.failed(
            event, row_key(text), error, attempt=1, number=step.number
        )

    def _written(self, key: Key, row: ReadModel) -> Mapping[str, Any]:
        try:
            return self._rows.write(row)
        except ValueError as error:
            raise ProjectionError(
                "EB6009",
                f"projection {self.definition.name!r} cannot be rebuilt: a row fits no column",
                where=f"{row_key(key_text(key))}, version {self.version.version}",
                why=str(error),
                next="mend the projection; what serves is untouched",
            ) from error


class _TooManyError(Exception):
    """The rows of a part do not fit into memory."""
