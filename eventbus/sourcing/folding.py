"""Folding: states and events in, rows to write, keys gone and keys that failed out. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eventbus.event import Event
from eventbus.sourcing.read_model import Key, ReadModel, Rows

Change = Callable[[Any, Any], ReadModel | None]


class Step(NamedTuple):  # made for each event: a frozen dataclass takes three times as long
    """One event for one row."""

    key: Key
    change: Change
    event: Event
    place: int  # of the event, in what the caller has
    number: int = 0  # among the rows that the event concerns


@dataclass(frozen=True, slots=True)
class Stumble:
    """The step of a key that failed; those before it are in the rows, those after it are not."""

    step: int  # in the steps of the key
    error: Exception


@dataclass(slots=True)
class Folded:
    """What is to be written."""

    models: dict[Key, ReadModel] = field(default_factory=dict[Key, ReadModel])
    rows: Sequence[Mapping[str, Any]] = ()  # the same, as the database takes them
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

    Rows are looked at when all is folded; only if one does not fit its columns after each of its
    events, to find the guilty one.
    """
    folded = Folded()
    for key, queue in steps.items():
        before = states.get(key)
        try:
            row = before
            for step in queue:
                row = step.change(rows.new(key) if row is None else row, step.event)
            _keep(rows, folded, key, row, existed=before is not None)
        except Exception:  # the author's function: whatever it raises
            _step_by_step(rows, folded, key, before, queue)
    try:
        folded.rows = rows.write_all(list(folded.models.values()))
    except Exception:  # a value that fits no column: of which row is found out now
        _look_at_each(rows, folded, states, steps)
    return folded


def _look_at_each(
    rows: Rows, folded: Folded, states: Mapping[Key, ReadModel], steps: Mapping[Key, Sequence[Step]]
) -> None:
    written: list[Mapping[str, Any]] = []
    for key, row in list(folded.models.items()):
        try:
            written.append(rows.write(row))
        except Exception:  # the author's value: which event made it, the steps tell
            del folded.models[key]
            _step_by_step(rows, folded, key, states.get(key), steps[key])
            written += [rows.write(folded.models[key])] if key in folded.models else []
    folded.rows = written


def _step_by_step(
    rows: Rows, folded: Folded, key: Key, before: ReadModel | None, queue: Sequence[Step]
) -> None:
    row, changed = before, False
    for number, step in enumerate(queue):
        try:
            after = step.change(rows.new(key) if row is None else row, step.event)
            if after is not None:
                _check(rows, key, after)
                rows.write(after)
        except Exception as error:  # the author's function: whatever it raises
            folded.stumbles[key] = Stumble(number, error)
            break
        row, changed = after, True
    if changed:
        _keep(rows, folded, key, row, existed=before is not None)


def _keep(rows: Rows, folded: Folded, key: Key, row: ReadModel | None, *, existed: bool) -> None:
    if row is not None:
        _check(rows, key, row)
        folded.models[key] = row
    elif existed:
        folded.gone.append(key)


def _check(rows: Rows, key: Key, row: object) -> None:
    if not isinstance(row, rows.model):
        raise TypeError(f"it answered {type(row).__name__}, not {rows.model.__name__} or None")
    if rows.key_of(row) != key:
        raise ValueError("it changed the key of the row")
