"""The rows of one part of a scan: folded in memory, and copied when the log was read."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from random import Random
from typing import Any

from eventbus.errors import ProjectionError
from eventbus.event import Event
from eventbus.sourcing.definition import Definition, shard_of
from eventbus.sourcing.folding import Change
from eventbus.sourcing.parking import Sequences, row_key
from eventbus.sourcing.read_model import Key, ReadModel, Rows, key_text
from eventbus.sourcing.rebuild.marks import MOST_PARKED, unreadable
from eventbus.sourcing.recorded import Recorded
from eventbus.storage.events import RecordedMessage
from eventbus.storage.parking import Parked
from eventbus.storage.projections import ProjectionVersion


class _Kept:
    """What is known of a row: one place for all of it, looked up once for each event."""

    __slots__ = ("model", "stream", "tenant", "waits")

    def __init__(self, of: RecordedMessage) -> None:
        self.model: ReadModel | None = None  # None: it has none yet, or was deleted
        self.stream = of.stream
        self.tenant = of.tenant
        self.waits = False  # one of its events failed


class ShadowRows:
    """Takes event after event; one that fails waits, and with it all later ones of its row.

    Args:
        definition: what is built.
        version: whose shards they will belong to.
        number: of the part.
        of: so many parts there are; the keys of the others are passed over.
    """

    def __init__(
        self, definition: Definition, version: ProjectionVersion, *, number: int, of: int
    ) -> None:
        assert definition.rows is not None  # noqa: S101 - only folding projections are built
        self.parked: dict[int, list[Parked]] = {}  # by shard
        self._kept: dict[Key, _Kept] = {}
        self._definition = definition
        self._rows: Rows = definition.rows
        self._version = version
        self._number, self._of = number, of
        self._by_stream = definition.by_stream
        self._waiting = 0
        self._sequences = Sequences(Random())  # noqa: S311 - jitter

    def __len__(self) -> int:
        """So many rows are in memory; by stream those that were deleted are of them."""
        return len(self._kept)

    def take(self, event: Recorded) -> None:
        """Fold it into the rows that it concerns.

        Raises:
            ProjectionError: EB6009, it cannot be decoded, says no key, is of a second stream under
                `by_stream`, or too many wait.
        """
        try:
            said = event.decode()
            keyed = self._definition.keyed(said)
        except Exception as error:  # undecodable, or the author's key function
            raise unreadable(self._definition, event, error) from error
        for number, (key, change) in enumerate(keyed):
            kept = self._kept.get(key)
            if kept is None:
                if not self._is_of_this_part(key):
                    continue
                kept = self._kept[key] = _Kept(event.recorded)
            elif self._by_stream:
                self._check_home(event, kept)
            failed = None if kept.waits else self._change(key, kept, change, said)
            if kept.waits or failed is not None:
                self._wait(event, key, number, failed)
                kept.waits = True
            elif kept.model is None and not self._by_stream:
                del self._kept[key]

    def written(self) -> list[Sequence[Any]]:
        """All rows as the database takes them, in the order of the columns.

        Raises:
            ProjectionError: EB6009, a value fits no column.
        """
        models = [kept.model for kept in self._kept.values() if kept.model is not None]
        try:
            rows = self._rows.write_all(models)
        except ValueError:
            rows = [self._written(self._rows.key_of(row), row) for row in models]
        columns = tuple(self._rows.table.columns)
        if len(columns) == 1:
            return [(row[columns[0]],) for row in rows]
        return list(map(itemgetter(*columns), rows))

    def _is_of_this_part(self, key: Key) -> bool:
        """By stream only events of this part were read."""
        if self._by_stream or self._of == 1:
            return True
        return shard_of(key_text(key), self._of) == self._number

    def _check_home(self, event: Recorded, kept: _Kept) -> None:
        one = event.recorded
        if one.stream != kept.stream or one.tenant != kept.tenant:
            why = f"by_stream=True, but a row has events of {kept.stream} too"
            why = f"{why}, tenant {kept.tenant}" if kept.tenant else why
            raise unreadable(self._definition, event, why)

    def _change(self, key: Key, kept: _Kept, change: Change, event: Event) -> Exception | None:
        rows, row = self._rows, kept.model
        try:
            after = change(rows.new(key) if row is None else row, event)
            if after is not None and (
                not isinstance(after, rows.model) or rows.key_of(after) != key
            ):
                return TypeError(f"it answered {type(after).__name__}, not this row or None")
        except Exception as error:  # the author's function: whatever it raises
            return error
        kept.model = after
        return None

    def _wait(self, event: Recorded, key: Key, number: int, error: Exception | None) -> None:
        """`error`: why it failed; None: an earlier event of its row did."""
        text = key_text(key)
        if error is None:
            one = self._sequences.queued(event, row_key(text), number=number)
        else:
            one = self._sequences.failed(event, row_key(text), error, attempt=1, number=number)
        self.parked.setdefault(shard_of(text, self._version.shards), []).append(one)
        self._waiting += 1
        if self._waiting > MOST_PARKED:
            raise unreadable(self._definition, event, error or f"{MOST_PARKED} events wait")

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
