"""Folding: states and events in, rows to write, keys gone and keys that failed out. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventbus.event import Event
from eventbus.sourcing.read_model import Key, ReadModel, Rows

Change = Callable[[Any, Any], ReadModel | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One event for one row."""

    key: Key
    change: Change
    event: Event
    place: int  # of the event, in what the caller has


@dataclass(frozen=True, slots=True)
class Stumble:
    """The step of a key that failed; those before it are in the rows, those after it are not."""

    step: int  # in the steps of the key
    error: Exception


@dataclass(slots=True)
class Folded:
    """What is to be written."""

    rows: dict[Key, dict[str, Any]] = field(default_factory=dict[Key, dict[str, Any]])
    models: dict[Key, ReadModel] = field(default_factory=dict[Key, ReadModel])  # the same rows
    gone: list[Key] = field(default_factory=list[Key])
    stumbles: dict[Key, Stumble] = field(default_factory=dict[Key, Stumble])


def by_key(steps: Sequence[Step]) -> dict[Key, list[Step]]:
    """The steps of each key, in order."""
    found: dict[Key, list[Step]] = {}
    for step in steps:
        queue = found.get(step.key)
        if queue is None:
            found[step.key] = [step]
        else:
            queue.append(step)
    return found


def fold(
    rows: Rows, states: Mapping[Key, ReadModel], steps: Mapping[Key, Sequence[Step]]
) -> Folded:
    """Fold every key for itself: one that fails stops before the event at which it failed.

    A row is looked at when all its events are folded; only if it does not fit its columns after
    each of them, to find the guilty one.
    """
    folded = Folded()
    for key, queue in steps.items():
        before = states.get(key)
        try:
            row = _folded(rows, key, before, queue)
            written = None if row is None else _written(rows, key, row)
        except Exception:  # the author's function: whatever it raises
            _step_by_step(rows, key, before, queue, folded)
        else:
            _keep(folded, key, row, written, existed=before is not None)
    return folded


def _folded(rows: Rows, key: Key, row: ReadModel | None, queue: Sequence[Step]) -> ReadModel | None:
    for step in queue:
        row = step.change(rows.new(key) if row is None else row, step.event)
    return row


def _step_by_step(
    rows: Rows,
    key: Key,
    before: ReadModel | None,
    queue: Sequence[Step],
    folded: Folded,
) -> None:
    row, written = before, None
    changed = False
    for number, step in enumerate(queue):
        try:
            after = step.change(rows.new(key) if row is None else row, step.event)
            written_after = None if after is None else _written(rows, key, after)
        except Exception as error:  # the author's function: whatever it raises
            folded.stumbles[key] = Stumble(number, error)
            break
        row, written, changed = after, written_after, True
    if changed:
        _keep(folded, key, row, written, existed=before is not None)


def _keep(
    folded: Folded,
    key: Key,
    row: ReadModel | None,
    written: dict[str, Any] | None,
    *,
    existed: bool,
) -> None:
    if row is not None and written is not None:
        folded.rows[key], folded.models[key] = written, row
    elif existed:
        folded.gone.append(key)


def _written(rows: Rows, key: Key, row: object) -> dict[str, Any]:
    if not isinstance(row, rows.model):
        raise TypeError(f"it answered {type(row).__name__}, not {rows.model.__name__} or None")
    if rows.key_of(row) != key:
        raise ValueError("it changed the key of the row")
    return rows.write(row)
