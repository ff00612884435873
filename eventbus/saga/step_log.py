"""The step log: one row per step and phase, and what a row has to remember beside its columns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from eventbus.storage.sagas import Phase, StepRow
from eventbus.values import copier

DEFINITE = frozenset({"succeeded", "rejected", "cancelled", "skipped"})
REFUSED = frozenset({"rejected", "cancelled"})  # no effect, and none will come
OPEN = frozenset({"dispatched", "unknown"})  # there may be an effect, or come one


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What stands in the column `error` of a step."""

    since: str | None = None  # the first sending, RFC 3339
    why: str | None = None  # it was rejected, gave up, or is skipped
    asked: int = 0  # how often it was asked what became of it
    working: bool = False  # a worker has the call
    taken: bool = False  # a method of the process took its answer
    held: bool = False  # its reply came before the state that takes it
    do: dict[str, Any] | None = None  # a process's step: its command and its options


EMPTY = Note()


def note_of(row: StepRow) -> Note:
    """What the row remembers."""
    return EMPTY if row.error is None else _decoded(row.error)


@lru_cache(4096)  # a transition asks for the note of a row several times
def _decoded(stored: bytes) -> Note:
    return Note(**orjson.loads(stored))


def noted(row: StepRow, **changes: Any) -> StepRow:
    """The row with a note that differs."""
    return changed(row, error=annotation(row, **changes))


def annotation(row: StepRow, **changes: Any) -> bytes | None:
    """The note of the row with other values, for its column `error`."""
    return encoded(_other_note(note_of(row), **changes))


changed: Callable[..., StepRow] = copier(StepRow)  # the row with other values
_other_note = copier(Note)


def encoded(note: Note) -> bytes | None:
    """As it is stored: what is not said is left out."""
    kept = {name: value for name in Note.__slots__ if (value := getattr(note, name))}
    return orjson.dumps(kept) if kept else None


class StepLog:
    """The rows of one saga while a transition is made."""

    def __init__(self, rows: "tuple[StepRow, ...] | list[StepRow]") -> None:
        self._rows: dict[tuple[int, Phase], StepRow] = {(row.seq, row.phase): row for row in rows}
        self._changed: dict[tuple[int, Phase], StepRow] = {}
        self._forwards: list[StepRow] | None = None

    def put(self, row: StepRow) -> StepRow:
        """Add a row, or replace that of its place and phase."""
        place = (row.seq, row.phase)
        self._forwards = None
        self._rows[place] = self._changed[place] = row
        return row

    def get(self, seq: int, phase: Phase = "forward") -> StepRow | None:
        """The row of a place and phase."""
        return self._rows.get((seq, phase))

    def forward(self, seq: int) -> StepRow:
        """The forward row of a place that is known to have one."""
        return self._rows[seq, "forward"]

    @property
    def forwards(self) -> list[StepRow]:
        """Forward rows in the order of starting."""
        if self._forwards is None:
            rows = [row for row in self._rows.values() if row.phase == "forward"]
            self._forwards = sorted(rows, key=_place)
        return self._forwards

    @property
    def rows(self) -> tuple[StepRow, ...]:
        """All of them."""
        return tuple(self._rows.values())

    @property
    def changed(self) -> tuple[StepRow, ...]:
        """What was put, as it is now."""
        return tuple(self._changed.values())


def _place(row: StepRow) -> int:
    return row.seq
