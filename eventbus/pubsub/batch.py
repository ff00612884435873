"""What is known and decided while a batch runs, and which of its messages go together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from eventbus.pubsub.call import Call
from eventbus.pubsub.effects import Effects
from eventbus.storage.parking import Parked


@dataclass(slots=True)
class Batch:
    """What is known and decided while a batch runs."""

    new: set[UUID]
    held: set[str]
    effects: Effects
    bare: bool = False  # no savepoints: what fails fails all of it
    parked: list[Parked] = field(default_factory=list)
    outcomes: list[tuple[Call, str]] = field(default_factory=list)  # counted once it is committed


def to_come(calls: Sequence[Call], first: int, batch: Batch) -> Sequence[Call]:
    """What may run yet, as far as is known."""
    return [
        call
        for call in calls[first:]
        if call.ours and call.identity in batch.new and call.key not in batch.held
    ]


def at_once(calls: Sequence[Call], first: int, batch: Batch) -> Sequence[Call]:
    """Neighbours for one call of a batch handler: a key that failed holds what is behind it."""
    head = calls[first]
    end = first
    keys: set[str] = set()
    while end < len(calls):
        call = calls[end]
        same = call.route.batches is head.route.batches and call.wrong is None and not call.lost
        may_run = call.identity in batch.new and call.key not in batch.held
        if not same or not may_run or call.key in keys:
            break
        keys.add(call.key)
        end += 1
    return calls[first : max(end, first + 1)]


def neighbours(calls: Sequence[Call], first: int, batch: Batch) -> Sequence[Call]:
    """Neighbours that one batch handler may get as one sequence."""
    head = calls[first]
    if len(head.route.handlers) != 1 or not head.route.handlers[0].batch:
        return calls[first : first + 1]
    end = first
    seen: set[UUID] = set()
    while end < len(calls):
        call = calls[end]
        same = call.route is head.route and call.wrong is None and not call.lost
        may_run = call.identity in batch.new and call.key not in batch.held
        if not same or not may_run or call.identity in seen:
            break
        seen.add(call.identity)
        end += 1
    return calls[first : max(end, first + 1)]
