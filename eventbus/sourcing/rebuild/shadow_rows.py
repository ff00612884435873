"""The rows of one part of a scan: folded in memory, and copied when the log was read."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from random import Random
from typing import Any

from eventbus.errors import CodecError, ProjectionError
from eventbus.sourcing.definition import Definition, shard_of
from eventbus.sourcing.folding import Step
from eventbus.sourcing.parking import Sequences, row_key
from eventbus.sourcing.read_model import Key, ReadModel, Rows, key_text
from eventbus.sourcing.rebuild.marks import MOST_PARKED, unreadable
from eventbus.sourcing.recorded import Recorded
from eventbus.storage.parking import Parked
from eventbus.storage.projections import ProjectionVersion


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
        self.models: dict[Key, ReadModel] = {}
        self.parked: dict[int, list[Parked]] = {}  # by shard
        self._definition = definition
        self._rows: Rows = definition.rows
        self._version = version
        self._number, self._of = number, of
        self._homes: dict[Key, tuple[str, str]] = {}  # by stream: tenant and stream of a row
        self._held: set[Key] = set()
        self._waiting = 0
        self._sequences = Sequences(Random())  # noqa: S311 - jitter

    def take(self, event: Recorded) -> None:
        """Fold it into the rows that it concerns.

        Raises:
            ProjectionError: EB6009, it cannot be decoded, says no key, is of a second stream under
                `by_stream`, or too many wait.
        """
        for step in self._steps(event):
            if not self._is_of_this_part(event, step.key):
                continue
            if step.key in self._held:
                self._wait(event, step, None)
                continue
            error = self._change(step)
            if error is not None:
                self._wait(event, step, error)

    def written(self) -> list[Sequence[Any]]:
        """All rows as the database takes them, in the order of the columns.

        Raises:
            ProjectionError: EB6009, a value fits no column.
        """
        models = list(self.models.values())
        try:
            rows = self._rows.write_all(models)
        except ValueError:
            rows = [self._written(key, row) for key, row in self.models.items()]
        columns = tuple(self._rows.table.columns)
        if len(columns) == 1:
            return [(row[columns[0]],) for row in rows]
        return list(map(itemgetter(*columns), rows))

    def _steps(self, event: Recorded) -> Sequence[Step]:
        try:
            return self._definition.steps(event.decode(), place=0)
        except CodecError as error:
            raise unreadable(self._definition, event, error) from error
        except Exception as error:  # the author's key function
            raise unreadable(self._definition, event, error) from error

    def _is_of_this_part(self, event: Recorded, key: Key) -> bool:
        if not self._definition.by_stream:
            return self._of == 1 or shard_of(key_text(key), self._of) == self._number
        home = event.recorded.tenant, event.recorded.stream
        if self._homes.setdefault(key, home) != home:
            tenant, stream = self._homes[key]
            why = f"by_stream=True, but a row has events of {stream} too"
            raise unreadable(self._definition, event, f"{why}, tenant {tenant}" if tenant else why)
        return True

    def _change(self, step: Step) -> Exception | None:
        key, rows = step.key, self._rows
        row = self.models.get(key)
        try:
            after = step.change(rows.new(key) if row is None else row, step.event)
            if after is None:
                self.models.pop(key, None)
                return None
            if not isinstance(after, rows.model) or rows.key_of(after) != key:
                return TypeError(f"it answered {type(after).__name__}, not this row or None")
        except Exception as error:  # the author's function: whatever it raises
            return error
        self.models[key] = after
        return None

    def _wait(self, event: Recorded, step: Step, error: Exception | None) -> None:
        """`error`: why it failed; None: an earlier event of its row did."""
        text = key_text(step.key)
        if error is None:
            one = self._sequences.queued(event, row_key(text), number=step.number)
        else:
            one = self._sequences.failed(event, row_key(text), error, attempt=1, number=step.number)
        self._held.add(step.key)
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
