"""Inline projections: rows in the transaction of the append, or no append."""

from collections.abc import Iterable, Mapping, Sequence

from eventbus.codec import personal_texts
from eventbus.errors import ConcurrencyError, ProjectionError
from eventbus.event import Event
from eventbus.personal import without
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.folding import Step, by_key, fold
from eventbus.sourcing.read_model import Key, key_text
from eventbus.sourcing.shard import shard_name, table_of_version
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Append, Appended
from eventbus.storage.projections import ProjectionVersion


class Inline:
    """Appends events, and what they make of rows, in one savepoint.

    Args:
        definitions: of the bus; those that are not inline are left out.
    """

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._definitions = [one for one in definitions if one.runs == "inline"]

    def concerns(self, events: Iterable[Event]) -> bool:
        """Whether one of the events changes rows here."""
        classes = {type(event) for event in events}
        return any(not classes.isdisjoint(one.classes) for one in self._definitions)

    async def append(self, tx: Transaction, append: Append, events: Sequence[Event]) -> Appended:
        """Record, and write the rows; both or neither.

        Rows are held, in the order of their keys, until the transaction ends: appends that change
        one row take turns. A repeated append changes nothing.

        Args:
            tx: of the caller.
            append: the events as messages.
            events: the same.

        Raises:
            ProjectionError: EB6015, a projection failed at one of them; nothing is recorded.
            StorageError: EB5202, the rows that serve are of other code; or what `append` raises.
        """
        if not self.concerns(events):
            return await tx.events.append(append, conflicting=True)
        classes = {type(event) for event in events}
        concerned = [one for one in self._definitions if not classes.isdisjoint(one.classes)]
        async with tx.savepoint():
            versions = await self._entered(tx, concerned)  # before a position is drawn
            appended = await tx.events.append(append, conflicting=True)
            if not appended.repeated:
                for one in concerned:
                    await _project(tx, one, versions[one.name], events)
        return appended

    async def load(
        self,
        storage: Storage,
        appends: Sequence[tuple[Append, Sequence[Event]]],
        *,
        skip: bool,
    ) -> int:
        """Streams that do not exist yet, in one commit, with their rows; how many events it were.

        Raises:
            ConcurrencyError: EB5003, a stream exists, and `skip` is False; nothing was written.
            ProjectionError, StorageError: as `append`; nothing was written.
        """
        loaded = 0
        async with storage.transaction() as tx:
            for append, events in appends:
                try:
                    appended = await self.append(tx, append, events)
                except ConcurrencyError:
                    if not skip:
                        raise
                else:
                    loaded += 0 if appended.repeated else len(events)
        return loaded

    async def begin(self, storage: Storage) -> None:
        """Make the tables of those that never ran, so that they can be read."""
        if self._definitions:
            async with storage.transaction() as tx:
                for one in self._definitions:
                    versions = await tx.projections.versions(one.name)
                    if not any(version.status == "active" for version in versions):
                        await _begun(tx, one)

    async def _entered(self, tx: Transaction, some: Sequence[Definition]) -> Mapping[str, int]:
        fingerprints = {one.name: one.fingerprint for one in some}
        versions = await tx.projections.enter(fingerprints)
        new = [one for one in some if one.name not in versions]
        for one in new:
            await _begun(tx, one)
        return await tx.projections.enter(fingerprints) if new else versions


async def _begun(tx: Transaction, definition: Definition) -> None:
    """Its first version; its checkpoint tells what was recorded before, and is not in it."""
    head = (await tx.events.read_bound()).head
    first = ProjectionVersion(
        name=definition.name,
        version=1,
        status="active",
        code_hash=definition.code_hash,
        shards=1,
        built_to=None,
        publishes_after=head,
        runs="inline",
    )
    if await tx.projections.create(first, table_of_version(definition, first)):
        name = shard_name(first, 0)
        await tx.checkpoints.load(name, fingerprint=definition.fingerprint, start=head)


async def _project(
    tx: Transaction, definition: Definition, version: int, events: Sequence[Event]
) -> None:
    rows = definition.rows
    assert rows is not None  # noqa: S101 - only folding projections run inline
    steps = _steps(definition, events)
    if not steps:
        return
    try:
        missing = [rows.write(rows.new(key)) for key in steps]
    except ValueError as error:
        raise _refused(definition, version, next(iter(steps)), error, events) from error
    states = map(rows.read, await tx.projections.claim(rows.table, missing))
    folded = fold(rows, {rows.key_of(row): row for row in states}, steps)
    for key, stumble in folded.stumbles.items():
        raise _refused(definition, version, key, stumble.error, events) from stumble.error
    await tx.projections.write(rows.table, folded.rows, gone=folded.gone)


def _steps(definition: Definition, events: Sequence[Event]) -> Mapping[Key, Sequence[Step]]:
    found: list[Step] = []
    for place, event in enumerate(events):
        try:
            found += definition.steps(event, place)
        except Exception as error:  # the author's key function: whatever it raises
            raise _refused(definition, None, None, error, events) from error
    return by_key(found)


def _refused(
    definition: Definition,
    version: int | None,
    key: Key | None,
    error: Exception,
    events: Sequence[Event],
) -> ProjectionError:
    where = f"projection {definition.name!r}"
    if version is not None:
        where += f", version {version}"
    if key is not None:
        where += f", row {key_text(key)}"
    return ProjectionError(
        "EB6015",
        f"inline projection {definition.name!r} failed, so nothing was recorded",
        where=where,
        why=f"{type(error).__name__}: {without(str(error), personal_texts(events))}",
        next='mend the projection, or let it follow: runs="following" parks a row, not the append',
    )
