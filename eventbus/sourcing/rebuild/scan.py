"""The scan of a rebuild: the log up to a position, folded in memory, copied in one transaction."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from random import Random
from typing import Any

from eventbus.codec import Registry
from eventbus.errors import CodecError, ProjectionError
from eventbus.service import end
from eventbus.sourcing.definition import Definition, shard_of
from eventbus.sourcing.folding import Step
from eventbus.sourcing.parking import Sequences, row_key
from eventbus.sourcing.read_model import Key, ReadModel, Rows, key_text
from eventbus.sourcing.recorded import Recorded
from eventbus.sourcing.shard import shard_name
from eventbus.storage import Storage
from eventbus.storage.events import FeedPage, Filter, Position
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Parked
from eventbus.storage.projections import ProjectionVersion, Table

MOST_PARKED = 10_000  # events of a scan that may wait; above, the code is wrong, not the events
START = Position(0)

Report = Callable[[int, int], None]
"""(done, rows): the highest position read, and how many rows there are in memory."""


class Scan:
    """One part of the keys, by hash, of everything up to `built_to`.

    Args:
        storage: entered.
        definition: what is built.
        registry: decodes what is recorded.
        version: with its `built_to`.
        table: the shadow.
        page: events that are read at once.
    """

    def __init__(
        self,
        storage: Storage,
        definition: Definition,
        registry: Registry,
        version: ProjectionVersion,
        table: Table,
        *,
        page: int,
        rate: float | None = None,
        since: Position | datetime = START,
    ) -> None:
        assert definition.rows is not None  # noqa: S101 - only folding projections are built
        assert version.built_to is not None  # noqa: S101 - planned
        self._storage = storage
        self._definition = definition
        self._registry = registry
        self._version = version
        self._table = table
        self._page = page
        self._rate = rate
        self._since = since
        self._upto: Position = version.built_to
        self._rows: Rows = definition.rows
        self._sequences = Sequences(Random())  # noqa: S311 - jitter

    async def part(self, lease: Lease, number: int, of: int, report: Report) -> None:
        """Copy part `number` of `of`, unless its mark says that it is there.

        A part that was cut off left nothing, and is done again.

        Raises:
            ProjectionError: EB6009, an event cannot be decoded, or a row fits no column.
            LeaseLostError: somebody else rebuilds.
        """
        mark = mark_name(self._version, number, of)
        async with self._storage.transaction() as tx:
            done = await tx.checkpoints.load(mark, fingerprint=self._definition.code_hash)
        if done >= self._upto:
            report(self._upto, 0)
            return
        states, parked = await self._folded(number, of, report)
        records = [list(self._written(key, row).values()) for key, row in states.items()]
        async with self._storage.transaction() as tx:
            await tx.projections.load(self._table, records)
            for shard, waiting in parked.items():
                name = f"projection:{shard_name(self._version, shard)}"
                await tx.parking.park(waiting, group=name)
            # last: it locks the lease, which is to be renewed while rows are copied
            await tx.checkpoints.save(mark, self._upto, after=done, lease=lease)

    async def _folded(
        self, number: int, of: int, report: Report
    ) -> tuple[dict[Key, ReadModel], dict[int, list[Parked]]]:
        states: dict[Key, ReadModel] = {}
        held: set[Key] = set()
        parked: dict[int, list[Parked]] = {}
        waiting = 0
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for place, recorded in enumerate(page.events):
                    if isinstance(self._since, datetime) and recorded.recorded_at < self._since:
                        continue
                    event = Recorded(recorded, self._registry)
                    for step in self._steps(event, place):
                        if of > 1 and shard_of(key_text(step.key), of) != number:
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
                            raise self._refused(event, error or one.failure or "")
                report(page.read_to, len(states))
        return states, parked

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
            return self._definition.steps(event.event, place)
        except CodecError as error:
            raise self._refused(event, error.what) from error
        except Exception as error:  # the author's key function
            raise self._refused(event, error) from error

    def _waits(self, event: Recorded, step: Step, error: Exception | None) -> tuple[int, Parked]:
        text = key_text(step.key)
        shard = shard_of(text, self._version.shards)
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
                f"projection {self._definition.name!r} cannot be rebuilt: a row fits no column",
                where=f"{row_key(key_text(key))}, version {self._version.version}",
                why=str(error),
                next="mend the projection; what serves is untouched",
            ) from error

    async def _pages(self) -> AsyncGenerator[FeedPage, None]:
        """The next page is read while the present one is folded."""
        after = START if isinstance(self._since, datetime) else self._since
        coming: asyncio.Task[FeedPage] | None = None
        loop = asyncio.get_running_loop()
        began, read = loop.time(), 0
        try:
            while after < self._upto:
                page = await (self._read(after) if coming is None else coming)
                coming = None
                if page.read_to <= after:
                    break
                after = page.read_to
                if after < self._upto and self._storage.capabilities.concurrent:
                    coming = asyncio.create_task(self._read(after), name=f"scan:{after}")
                yield page
                read += len(page.events)
                if self._rate is not None:
                    await asyncio.sleep(max(0.0, began + read / self._rate - loop.time()))
        finally:
            if coming is not None:
                await end([coming])

    async def _read(self, after: Position) -> FeedPage:
        async with self._storage.transaction() as tx:
            return await tx.events.read_all(
                after=after,
                limit=self._page,
                upto=self._upto,
                only=Filter(types=self._definition.types),
            )

    def _refused(self, event: Recorded, why: object) -> ProjectionError:
        recorded = event.recorded
        return ProjectionError(
            "EB6009",
            f"projection {self._definition.name!r} cannot be rebuilt from this log",
            where=f"{recorded.message.type} at {recorded.position},"
            f" {recorded.stream}@{recorded.version}",
            why=f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why),
            next="deploy code that reads it, then again with --resume; what serves is untouched",
        )


def mark_name(version: ProjectionVersion, number: int, of: int) -> str:
    """The checkpoint that says that a part is copied; no checkpoint of the version itself."""
    return f"scan/{version.name}@{version.version}/{number}/{of}"
