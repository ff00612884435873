"""A page of events in one transaction: the checkpoint, then rows, then what could not go on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from eventbus.errors import ProjectionError, StorageError
from eventbus.sourcing.definition import Definition, shard_of
from eventbus.sourcing.folding import Step, fold
from eventbus.sourcing.parking import Sequences, log_failures, number_of, row_key, stream_key
from eventbus.sourcing.projection import Projection, RecordedEvent
from eventbus.sourcing.read_model import Key, key_text
from eventbus.sourcing.recorded import Recorded
from eventbus.sourcing.shard import Shard, table_of_version
from eventbus.sourcing.view import BatchView, Encode, not_its_own
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Position
from eventbus.storage.parking import Parked
from eventbus.storage.projections import ProjectionVersion

_ITS_OWN = frozenset({"EB5003", "EB5005", "EB5009"})  # storage errors that an event causes


@dataclass(slots=True)
class _Rows:
    """What a page says to the rows of a shard, and what it may not say yet."""

    steps: dict[Key, list[Step]] = field(default_factory=dict[Key, list[Step]])
    waiting: list[tuple[int, Parked]] = field(default_factory=list[tuple[int, Parked]])

    def add(self, step: Step) -> None:
        queue = self.steps.get(step.key)
        if queue is None:
            self.steps[step.key] = [step]
        else:
            queue.append(step)


class Batches:
    """Writes what a projection makes of events; exactly once, for the checkpoint is compared.

    Args:
        definition: what it is made of.
        encode: an event as the message that is published.
        random: jitter of the waits.
    """

    def __init__(self, definition: Definition, encode: Encode, random: Random) -> None:
        self.definition: Definition = definition
        self.sequences: Sequences = Sequences(random)
        self._encode = encode

    async def page(
        self, storage: Storage, shard: Shard, events: Sequence[Recorded], read_to: Position
    ) -> None:
        """Everything up to `read_to`, in one transaction; the shard stands there afterwards.

        Raises:
            LeaseLostError: the lease is stale, the version retired, or it stands elsewhere:
                nothing was written.
            StorageError: nothing was written, or, a `CommitUnknownError`, perhaps everything.
        """
        async with storage.transaction() as tx:
            parked = await self.page_within(tx, shard, events, read_to)
        shard.position = read_to
        shard.held.update(parked)

    async def page_within(
        self, tx: Transaction, shard: Shard, events: Sequence[Recorded], read_to: Position
    ) -> set[str]:
        """The same in a transaction of the caller, who moves the shard; the keys that wait now."""
        new = [one for one in events if one.recorded.position > shard.position]
        await tx.checkpoints.save(shard.name, read_to, after=shard.position, lease=shard.lease)
        parked = await self.write(tx, shard, new, held=shard.held)
        await tx.parking.park(parked, group=shard.group)
        log_failures(shard.group, parked)
        return {one.key for one in parked}

    async def write(
        self,
        tx: Transaction,
        shard: Shard,
        events: Sequence[RecordedEvent],
        *,
        held: set[str],
        attempt: int = 1,
    ) -> list[Parked]:
        """Write what can be written; the rest, in the order of the log, is to be parked."""
        if not events:
            return []
        if self.definition.general is not None:
            return await self._applied(tx, shard, events, self.definition.general, held, attempt)
        rows = self._sorted(shard, events, held, attempt)
        await self._fold(tx, shard, rows, events)
        return [parked for _, parked in sorted(rows.waiting, key=lambda one: one[0])]

    async def again(
        self,
        tx: Transaction,
        shard: Shard,
        key: str,
        waiting: Sequence[tuple[Parked, Recorded]],
    ) -> tuple[int, Exception | None]:
        """The parked events of one row, in order: how many are written, and what stopped it."""
        rows, error, done = _Rows(), None, len(waiting)
        for place, (parked, recorded) in enumerate(waiting):
            try:
                step = self._step(recorded, key, number_of(parked), place)
            except Exception as failure:  # the author's function: whatever it raises
                error, done = failure, place
                break
            if step is not None:
                rows.add(step)
        for stumble_key, stumble in (await self._write_rows(tx, shard, rows)).items():
            step_number, error = stumble
            done = rows.steps[stumble_key][step_number].place
        return done, error

    def _sorted(
        self, shard: Shard, events: Sequence[RecordedEvent], held: set[str], attempt: int
    ) -> _Rows:
        rows, definition = _Rows(), self.definition
        held, waiting = set(held), rows.waiting
        shards = shard.version.shards
        for place, event in enumerate(events):
            stream = stream_key(event.recorded) if held else ""
            if held and stream in held:
                waiting.append((place, self.sequences.queued(event, stream)))
                continue
            try:
                steps = definition.steps(event.event, place)
            except Exception as error:  # undecodable, or the author's key function
                stream = stream_key(event.recorded)
                held.add(stream)
                waiting.append(
                    (place, self.sequences.failed(event, stream, error, attempt=attempt))
                )
                continue
            for step in steps:
                if shards > 1 and shard_of(key_text(step.key), shards) != shard.number:
                    continue
                if held and (key := row_key(key_text(step.key))) in held:
                    waiting.append((place, self.sequences.queued(event, key, number=step.number)))
                else:
                    rows.add(step)
        return rows

    async def _fold(
        self, tx: Transaction, shard: Shard, rows: _Rows, events: Sequence[RecordedEvent]
    ) -> None:
        for key, (first, error) in (await self._write_rows(tx, shard, rows)).items():
            text = row_key(key_text(key))
            for nth, step in enumerate(rows.steps[key][first:]):
                event, number = events[step.place], step.number
                parked = (
                    self.sequences.queued(event, text, number=number)
                    if nth
                    else self.sequences.failed(event, text, error, attempt=1, number=number)
                )
                rows.waiting.append((step.place, parked))

    async def _write_rows(
        self, tx: Transaction, shard: Shard, rows: _Rows
    ) -> dict[Key, tuple[int, Exception]]:
        """Fold and write; of each key that stopped the step, and why."""
        table = table_of_version(self.definition, shard.version)
        model = self.definition.rows
        if not rows.steps or table is None or model is None:
            return {}
        known = shard.rows
        unknown = [key for key in rows.steps if key not in known]
        if unknown:
            for row in map(model.read, await tx.projections.states(table, unknown)):
                known[model.key_of(row)] = row
        folded = fold(model, known, rows.steps)
        if folded.rows or folded.gone:
            await tx.projections.write(table, folded.rows, gone=folded.gone)
        shard.remember(folded.models, folded.gone)
        return {key: (one.step, one.error) for key, one in folded.stumbles.items()}

    def _step(self, recorded: Recorded, key: str, number: int, place: int) -> Step | None:
        steps = self.definition.steps(recorded.event, place)
        if number < len(steps) and row_key(key_text(steps[number].key)) == key:
            return steps[number]
        return None  # another key function: the event concerns this row no more

    async def _applied(
        self,
        tx: Transaction,
        shard: Shard,
        events: Sequence[RecordedEvent],
        projection: Projection,
        held: set[str],
        attempt: int,
    ) -> list[Parked]:
        """All at once; if that fails, one by one, so that only the guilty one is parked."""
        if not any(stream_key(one.recorded) in held for one in events):
            try:
                async with tx.savepoint():
                    await self._apply(tx, shard, events, projection)
            except Exception as error:  # the author's function: whatever it raises
                if _is_ours(error):
                    raise
            else:
                return []
        held, parked = set(held), list[Parked]()
        for event in events:
            stream = stream_key(event.recorded)
            if stream in held:
                parked.append(self.sequences.queued(event, stream))
                continue
            try:
                async with tx.savepoint():
                    await self._apply(tx, shard, [event], projection)
            except Exception as error:  # the author's function: whatever it raises
                if _is_ours(error):
                    raise
                held.add(stream)
                parked.append(self.sequences.failed(event, stream, error, attempt=attempt))
        return parked

    async def _apply(
        self,
        tx: Transaction,
        shard: Shard,
        events: Sequence[RecordedEvent],
        projection: Projection,
    ) -> None:
        """In two calls where effects begin: a view is on one side of it."""
        first = shard.version.publishes_after
        before = [one for one in events if one.recorded.position <= first]
        after = [one for one in events if one.recorded.position > first]
        for some, replaying in ((before, True), (after, shard.version.status != "active")):
            if some:
                view = BatchView(tx, shard.version, self._encode, replaying=replaying)
                async with _sparing_what_serves(tx, shard.version):
                    await projection.apply(some, view)


@asynccontextmanager
async def _sparing_what_serves(tx: Transaction, version: ProjectionVersion) -> AsyncIterator[None]:
    """Of a version that does not serve yet, no write reaches a table that does.

    Raises:
        ProjectionError: EB6016.
    """
    if version.status == "active":
        yield
        return
    await tx.own_tables.watch(version.tables)
    yield
    touched = await tx.own_tables.touched()
    if touched:
        raise not_its_own(version, touched)


def _is_ours(error: Exception) -> bool:
    """Whether the database, or the whole projection, is the matter, and not the event."""
    if isinstance(error, ProjectionError):
        return error.code == "EB6016"
    return isinstance(error, StorageError) and error.code not in _ITS_OWN
