"""What a store should answer, in forty lines per sub-store: a language of steps, and its model."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

from eventbus.message import Message, own_key

LONG_AGO, NEVER = -1, 2**60
POOL = [
    Message(
        id=f"0190a6c5-6f6b-7cc3-98c4-dc0c0c073{number:03d}",
        type="shop.order-placed",
        source="machine",
        topic="shop",
        payload=str(number).encode(),
        key=None if number % 4 == 3 else f"k{number % 4}",
    )
    for number in range(12)
]
Place = Literal["outbox", "parked"]


def key_of(number: int) -> str:
    """The parking key of a message of the pool."""
    message = POOL[number]
    return message.key or own_key(message)


@dataclass(frozen=True)
class Add:
    numbers: tuple[int, ...]
    delay: int | None  # milliseconds, here and below


@dataclass(frozen=True)
class Read:
    pass


@dataclass(frozen=True)
class Promote:
    lease: int  # 0: the newest that was ever acquired, 1: the one before


@dataclass(frozen=True)
class Settle:
    picks: tuple[int, ...]  # of the rows that the last Read returned
    lease: int


@dataclass(frozen=True)
class Defer:
    picks: tuple[int, ...]
    delay: int | None
    lease: int


@dataclass(frozen=True)
class Receive:
    numbers: tuple[int, ...]
    record: bool  # False: look


@dataclass(frozen=True)
class Forget:
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Count:
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Park:
    rows: tuple[tuple[int, bool, int | None], ...]  # number, tried, delay
    lease: int | None


@dataclass(frozen=True)
class Due:
    pass


@dataclass(frozen=True)
class Behind:
    number: int  # of a message with the key
    closing: bool


@dataclass(frozen=True)
class SettleParked:
    picks: tuple[int, ...]  # of what Due or Behind returned last
    lease: int


@dataclass(frozen=True)
class Keys:
    pass


@dataclass(frozen=True)
class Acquire:
    place: Place
    owner: str
    ttl: int


@dataclass(frozen=True)
class Renew:
    place: Place
    ttl: int
    lease: int


@dataclass(frozen=True)
class Release:
    place: Place
    lease: int


@dataclass(frozen=True)
class Owners:
    place: Place


Step = (
    Add | Read | Promote | Settle | Defer | Receive | Forget | Count | Park | Due | Behind
    | SettleParked | Keys | Acquire | Renew | Release | Owners
)  # fmt: skip


@dataclass(frozen=True)
class Savepoint:
    steps: tuple[Step, ...]
    keep: bool


@dataclass(frozen=True)
class Program:
    """One transaction."""

    items: tuple[Step | Savepoint, ...]
    commit: bool


class LostError(Exception):
    """The model's LeaseLostError: undoes the innermost block."""


def picked(picks: Sequence[int], amount: int) -> list[int]:
    """Different indexes below the amount."""
    return sorted({pick % amount for pick in picks}) if amount else []


@dataclass
class Sending:
    id: int
    number: int
    due: int | None = None
    attempts: int = 0


@dataclass
class Waiting:
    number: int
    attempts: int
    tried: bool


@dataclass
class State:
    """What commits and rolls back; handles too, for ids of what is undone come again."""

    outbox: list[Sending] = field(default_factory=list)
    scheduled: list[tuple[int, int, int]] = field(default_factory=list)  # due, id, number
    last_id: int = 0
    last_scheduled: int = 0
    buffered: list[tuple[int, int | None]] = field(default_factory=list)
    inbox: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    parked: list[Waiting] = field(default_factory=list)
    keys: dict[str, tuple[bool, int]] = field(default_factory=dict)  # dead, due
    epochs: dict[Place, int] = field(default_factory=lambda: {"outbox": 0, "parked": 0})
    until: dict[Place, int] = field(default_factory=lambda: {"outbox": -1, "parked": -1})
    leases: dict[Place, list[int]] = field(default_factory=lambda: {"outbox": [], "parked": []})
    read: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)


class Model:
    """Runs programs as a store should."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.state = State()
        self._closing: set[str] = set()

    def run(self, program: Program) -> list[object]:
        """The answers of all steps; what is not committed leaves nothing."""
        before, answers = deepcopy(self.state), list[object]()
        self._closing = set()
        try:
            self._items(program.items, answers)
        except LostError:
            answers.append("lost")
            self.state = before
            return answers
        if not program.commit:
            self.state = before
            return answers
        self._flush()
        return answers

    def _items(self, items: Sequence[Step | Savepoint], answers: list[object]) -> None:
        for item in items:
            if not isinstance(item, Savepoint):
                answers.append(self.step(item))
                continue
            before = deepcopy(self.state)
            try:
                self._items(item.steps, answers)
                kept = item.keep
            except LostError:
                answers.append("lost")
                kept = False
            if not kept:
                self.state = before

    def _flush(self) -> None:
        state = self.state
        for number, delay in state.buffered:
            if delay is None:
                self._send(number)
            else:
                state.last_scheduled += 1
                state.scheduled.append((self.now + delay, state.last_scheduled, number))
        state.buffered = []

    def _send(self, number: int) -> None:
        self.state.last_id += 1
        self.state.outbox.append(Sending(self.state.last_id, number))

    def step(self, step: Step) -> object:
        """The answer of one step."""
        state = self.state
        match step:
            case Add():
                state.buffered += [(number, step.delay) for number in step.numbers]
                return None
            case Read() | Promote() | Settle() | Defer():
                return self._outbox(step)
            case Receive() | Forget() | Count():
                return self._inbox(step)
            case Acquire() | Renew() | Release() | Owners():
                return self._leases(step)
            case Keys():
                return sorted(state.keys)
            case _:
                return self._parking(step)

    def _outbox(self, step: Read | Promote | Settle | Defer) -> object:
        state = self.state
        if isinstance(step, Read):
            rows = [row for row in state.outbox if self._sendable(row)]
            state.read = [row.id for row in rows]
            return [(POOL[row.number].key, row.number, row.attempts) for row in rows]
        if not self._held("outbox", step.lease):
            return 0
        if isinstance(step, Promote):
            due = sorted(row for row in state.scheduled if row[0] <= self.now)
            state.scheduled = [row for row in state.scheduled if row[0] > self.now]
            for _, _, number in due:
                self._send(number)
            return len(due)
        ids = {state.read[pick] for pick in picked(step.picks, len(state.read))}
        rows = [row for row in state.outbox if row.id in ids]
        if isinstance(step, Settle):
            state.outbox = [row for row in state.outbox if row.id not in ids]
        else:
            for row in rows:
                row.attempts += 1
                row.due = NEVER if step.delay is None else self.now + step.delay
        return len(rows)

    def _sendable(self, row: Sending) -> bool:
        def later(other: Sending) -> bool:
            return other.due is not None and other.due > self.now

        key = POOL[row.number].key
        return not later(row) and not any(
            key is not None and POOL[other.number].key == key and other.id < row.id and later(other)
            for other in self.state.outbox
        )

    def _inbox(self, step: Receive | Forget | Count) -> object:
        state, numbers = self.state, set(step.numbers)
        if isinstance(step, Receive):
            new = sorted(numbers - state.inbox)
            if step.record:
                state.inbox |= numbers
            return new, sorted({key_of(number) for number in numbers} & set(state.keys))
        if isinstance(step, Forget):
            state.inbox -= numbers
            return None
        counts = {}
        for number in numbers:
            parked = [row for row in state.parked if row.number == number]
            for row in parked:
                row.attempts += 1
            if not parked:
                state.attempts[number] = state.attempts.get(number, 0) + 1
            counts[number] = parked[0].attempts if parked else state.attempts[number]
        return sorted(counts.items())

    def _parking(self, step: Park | Due | Behind | SettleParked) -> object:
        state = self.state
        if isinstance(step, Park):
            self._park(step)
            return None
        if isinstance(step, SettleParked):
            numbers = {state.found[pick] for pick in picked(step.picks, len(state.found))}
            if not self._held("parked", step.lease) or numbers - {r.number for r in state.parked}:
                raise LostError
            state.parked = [row for row in state.parked if row.number not in numbers]
            for key in self._closing:
                if not self._queue(key):
                    state.keys.pop(key, None)
            return None
        if isinstance(step, Behind):
            key = key_of(step.number)
            dead = state.keys.get(key, (True, 0))[0]
            if dead or not self._held("parked", 0):
                return self._found([])
            self._closing |= {key} if step.closing else set()
            return self._found([key])
        if not self._held("parked", 0):
            return self._found([])
        going = [k for k, (dead, due) in state.keys.items() if not dead and due <= self.now]
        for key in going:
            if not self._queue(key):
                del state.keys[key]
        return self._found(sorted(set(going) & set(state.keys)))

    def _park(self, step: Park) -> None:
        state = self.state
        if step.lease is not None and not self._held("parked", step.lease):
            raise LostError
        spoken: set[str] = set()
        for number, tried, delay in step.rows:
            key = key_of(number)
            said = (tried and delay is None, self.now + (delay or 0) if tried else LONG_AGO)
            if key not in spoken and (key not in state.keys or (step.lease is not None and tried)):
                state.keys[key] = said
            spoken.add(key)
            known = [row for row in state.parked if row.number == number]
            if known:
                known[0].attempts = max(known[0].attempts, int(tried))
                known[0].tried = known[0].tried or tried
            else:
                state.parked.append(Waiting(number, int(tried), tried))

    def _queue(self, key: str) -> list[Waiting]:
        return [row for row in self.state.parked if key_of(row.number) == key]

    def _found(self, keys: Sequence[str]) -> list[object]:
        rows = [row for key in keys for row in self._queue(key)]
        self.state.found = [row.number for row in rows]
        return [(key_of(row.number), row.number, row.attempts, row.tried) for row in rows]

    def _leases(self, step: Acquire | Renew | Release | Owners) -> object:
        state, place = self.state, step.place
        free = state.until[place] < self.now
        if isinstance(step, Owners):
            return not free
        if isinstance(step, Acquire):
            if free:
                state.epochs[place] += 1
                state.until[place] = self.now + step.ttl
                state.leases[place].append(state.epochs[place])
            return free
        held = self._held(place, step.lease)
        if held:
            state.until[place] = LONG_AGO if isinstance(step, Release) else self.now + step.ttl
        return held if isinstance(step, Renew) else None

    def _held(self, place: Place, lease: int) -> bool:
        """By its epoch alone: what ran out and nobody took is still ours."""
        known = self.state.leases[place]
        return lease < len(known) and known[-1 - lease] == self.state.epochs[place]
