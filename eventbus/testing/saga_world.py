"""A world around one saga: its participants, what is in flight, what may go wrong yet."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from eventbus.event import Event, Reply
from eventbus.saga.definition import Definition
from eventbus.saga.input import CallDone, Input, Outcome, Received, Replied, Started, TimerFired
from eventbus.saga.input import Verb as VerbInput
from eventbus.storage.sagas import StepRow
from eventbus.testing.saga_examples import Examples
from eventbus.testing.saga_machine import Command, Machine, Snapshot, Turn


class Effect(NamedTuple):
    """One row of a participant's fence, and what was really done."""

    id: UUID
    state: str = "none"  # none, done, rejected, fenced, undone
    applied: int = 0
    undone: int = 0


class Answer(NamedTuple):
    """A reply in flight."""

    effect: UUID
    outcome: Outcome
    undo: bool
    which: int = 0  # of the rejections that the command declares


class Ended(NamedTuple):
    """A call that a worker executed, not reported yet."""

    effect: UUID
    outcome: Outcome
    fence: int


class Arrival(NamedTuple):
    """An event in flight, by its place in the list of events."""

    event: int
    starts: bool = False


class Budgets(NamedTuple):
    """What may go wrong yet."""

    duplicates: int
    timeouts: int
    rejections: int
    cancels: int
    losses: int
    call_crashes: int
    verbs: frozenset[str]
    undo_rejections: int = 0


class Place(NamedTuple):
    """One state of the world."""

    at: int
    effects: tuple[Effect, ...]
    flying: tuple[int, ...]  # Command, Answer, Ended, Arrival by number; a multiset
    calls: tuple[tuple[UUID, str, int], ...]  # effect, phase, fence
    held: tuple[Arrival, ...]
    budgets: Budgets


Move = tuple[str, Place, str | None]
Answering = Callable[[Effect], tuple[Effect, Outcome]]


@dataclass(frozen=True, slots=True)
class Fence:
    """A participant as the contract has it: what arrives, against what stands in its table."""

    def forward(self, effect: Effect) -> tuple[Effect, Outcome]:
        """Run it once; the same answer ever after."""
        match effect.state:
            case "none":
                return effect._replace(state="done", applied=effect.applied + 1), "succeeded"
            case "done":
                return effect, "succeeded"
            case "rejected":
                return effect, "rejected"
            case _:
                return effect, "cancelled"

    def undo(self, effect: Effect) -> tuple[Effect, Outcome]:
        """Undo it once; what never ran never will."""
        match effect.state:
            case "none":
                return effect._replace(state="fenced"), "undone"
            case "done":
                return effect._replace(state="undone", undone=effect.undone + 1), "undone"
            case _:
                return effect, "undone"

    def resolve(self, effect: Effect) -> tuple[Effect, Outcome]:
        """Say what became of it; if nothing did, nothing will."""
        match effect.state:
            case "none":
                return effect._replace(state="fenced"), "cancelled"
            case "done":
                return effect, "succeeded"
            case "rejected":
                return effect, "rejected"
            case _:
                return effect, "cancelled"


@dataclass
class Moves:
    """What can happen next in a state of the world."""

    definition: Definition
    machine: Machine
    examples: Examples
    events: Sequence[Event]  # the start, the cancels, the others
    cancels: Sequence[int]
    fence: Fence = field(default_factory=Fence)
    _things: list[Any] = field(default_factory=list[Any])
    _numbers: dict[Any, int] = field(default_factory=dict[Any, int])

    def begin(self, budgets: Budgets, arrivals: Sequence[int]) -> Iterator[Move]:
        """The start, and the start with a copy of its event kept."""
        start = Started(self.events[0])
        place = Place(self.machine.begin(), (), (), (), (), budgets)
        others = tuple(Arrival(each) for each in arrivals)
        name = type(start.event).__name__
        for label, after, broken in self._fed(place, f"{name} starts it", ("start", 0), start):
            yield label, self._flying(after, others), broken
            if budgets.duplicates:
                copies = self._flying(after, (*others, Arrival(0, starts=True)))
                less = after.budgets._replace(duplicates=budgets.duplicates - 1)
                yield f"{label}, a copy is kept", copies._replace(budgets=less), broken

    def __call__(self, place: Place) -> Iterator[Move]:
        """Each with what it is called, where it leads, and the rule of the core that it breaks."""
        snapshot = self.machine.snapshots[place.at]
        paused = snapshot.saga.paused  # what comes is stashed, and no timer fires
        for number in dict.fromkeys(place.flying):
            if not (paused and isinstance(self._things[number], Answer | Arrival)):
                yield from self._deliveries(place, number, snapshot)
        for effect, phase, fence in place.calls:
            yield from self._worked(place, effect, phase, fence, snapshot)
        for name in () if paused else sorted(snapshot.timers):
            yield from self._fired(place, name, snapshot)
        if not paused:
            yield from self._cancelled(place)
        for verb in sorted(place.budgets.verbs):
            spent = place.budgets._replace(verbs=place.budgets.verbs - {verb})
            said = VerbInput(verb, {}, "explorer", "explored")
            less = place._replace(budgets=spent)
            yield from self._fed(less, f"verb {verb}", ("verb", verb), said)

    # What is in flight

    def _deliveries(self, place: Place, number: int, snapshot: Snapshot) -> Iterator[Move]:
        thing = self._things[number]
        without = place._replace(flying=_less(place.flying, number))
        budgets = place.budgets
        name = self.named(thing, snapshot)
        for label, after, broken in self._delivered(without, thing, name, snapshot):
            yield label, after, broken
            if budgets.duplicates:
                less = after.budgets._replace(duplicates=after.budgets.duplicates - 1)
                kept = self._flying(after, (thing,))._replace(budgets=less)
                yield f"{label}, a copy is kept", kept, broken
        if budgets.losses:
            less = budgets._replace(losses=budgets.losses - 1)
            yield f"{name} is lost", without._replace(budgets=less), None

    def _delivered(self, place: Place, thing: Any, name: str, snapshot: Snapshot) -> Iterator[Move]:
        match thing:
            case Command():
                yield from self._handled(place, thing, name, snapshot)
            case Answer(effect, outcome, undo, which):
                reply = self._reply(snapshot, effect, outcome, undo, which)
                effect_id = _sibling(snapshot, effect, "undo") if undo else effect
                said = Replied(effect_id, outcome, reply, "m")
                key = ("reply", effect_id, outcome, which)
                yield from self._fed(place, name, key, said)
            case Ended(effect, outcome, fence):
                yield from self._reported(place, effect, outcome, fence, name, snapshot)
            case _:
                event = self.events[thing.event]
                came = Started(event, "m") if thing.starts else Received(event, "m")
                yield from self._fed(place, name, thing, came, thing)

    def _handled(
        self, place: Place, command: Command, name: str, snapshot: Snapshot
    ) -> Iterator[Move]:
        """A participant has the command."""
        effect = _effect(place, command.effect)
        how: Answering = getattr(self.fence, command.phase)
        after, outcome = how(effect)
        undo = command.phase == "undo"
        yield name, self._answered(place, after, Answer(effect.id, outcome, undo)), None
        if undo and place.budgets.undo_rejections:
            less = place.budgets._replace(undo_rejections=place.budgets.undo_rejections - 1)
            moved = self._answered(place, effect, Answer(effect.id, "rejected", undo=True))
            yield f"{name} is rejected", moved._replace(budgets=less), None
        if command.phase == "forward" and effect.state == "none" and place.budgets.rejections:
            less = place.budgets._replace(rejections=place.budgets.rejections - 1)
            refused = effect._replace(state="rejected")
            for which in range(self._rejections(snapshot, command.effect)):
                answer = Answer(effect.id, "rejected", undo=False, which=which)
                moved = self._answered(place, refused, answer)._replace(budgets=less)
                yield f"{name} is rejected{f' ({which})' if which else ''}", moved, None

    def _rejections(self, snapshot: Snapshot, effect: UUID) -> int:
        row = _row(snapshot, effect)
        spec = None if row is None else self.definition.flow.spec(row)
        kinds = len(spec.rejects) if spec is not None else 0
        return max(kinds, 1) if not self.definition.steps else 1

    def _reply(
        self, snapshot: Snapshot, effect: UUID, outcome: Outcome, undo: bool, which: int
    ) -> Reply | None:
        row = _row(snapshot, effect)
        if row is None or undo:
            return None
        spec = self.definition.flow.spec(row)
        if outcome == "succeeded" and spec.replies is not None:
            return self.examples.of(spec.replies)
        if outcome == "rejected" and spec.rejects:
            return self.examples.of(spec.rejects[which])
        return None

    # Calls

    def _worked(
        self, place: Place, effect: UUID, phase: str, fence: int, snapshot: Snapshot
    ) -> Iterator[Move]:
        """A worker takes the call, or takes it over from one that is silent."""
        budgets = place.budgets
        if fence:
            if not budgets.call_crashes:
                return
            budgets = budgets._replace(call_crashes=budgets.call_crashes - 1)
        row = _row(snapshot, effect)
        name = f"{'a worker' if not fence else 'another worker'} {_word(phase)} {_name(row)}"
        taken = tuple((e, p, fence + 1) if e == effect else (e, p, f) for e, p, f in place.calls)
        base = place._replace(calls=taken, budgets=budgets)
        forward = _sibling(snapshot, effect, "forward")
        before = _effect(place, forward)
        done = self._outside(before, phase)
        refused = phase == "forward" and done.state == "rejected"
        end = Ended(effect, "rejected" if refused else "succeeded", fence + 1)
        yield name, self._answered(base, done, end), None
        if budgets.timeouts:
            less = base._replace(budgets=budgets._replace(timeouts=budgets.timeouts - 1))
            unknown = Ended(effect, "unknown", fence + 1)
            yield f"{name}, no answer but the effect", self._answered(less, done, unknown), None
            yield f"{name}, no answer", self._answered(less, before, unknown), None
        if budgets.rejections and phase == "forward" and before.state == "none":
            less = base._replace(budgets=budgets._replace(rejections=budgets.rejections - 1))
            no = before._replace(state="rejected")
            end = Ended(effect, "rejected", fence + 1)
            yield f"{name}, it says no", self._answered(less, no, end), None

    def _outside(self, effect: Effect, phase: str) -> Effect:
        """The outside keeps to idempotency keys: each is done once."""
        if phase == "forward":
            return self.fence.forward(effect)[0] if effect.state == "none" else effect
        return self.fence.undo(effect)[0] if effect.state == "done" else effect

    def _reported(
        self, place: Place, effect: UUID, outcome: Outcome, fence: int, name: str, at: Snapshot
    ) -> Iterator[Move]:
        """The end of a call counts if its row still has the fence."""
        mine = [call for call in place.calls if call[0] == effect and call[2] == fence]
        if not mine:
            yield f"{name}, by a worker that lost it", place, None
            return
        left = place._replace(calls=tuple(call for call in place.calls if call not in mine))
        row = _row(at, effect)
        forward = mine[0][1] == "forward"
        reply = self._reply(at, effect, outcome, not forward, 0) if row is not None else None
        said = CallDone(effect, 0, outcome, reply)
        yield from self._fed(left, name, ("call", effect, outcome), said)

    # Time, cancels

    def _fired(self, place: Place, name: str, snapshot: Snapshot) -> Iterator[Move]:
        budgets = place.budgets
        if not self._is_a_delay(name, snapshot):
            if not budgets.timeouts:
                return
            budgets = budgets._replace(timeouts=budgets.timeouts - 1)
        spent = place._replace(budgets=budgets)
        yield from self._fed(spent, f"timer {name} fires", ("timer", name), TimerFired(name))

    def _is_a_delay(self, name: str, snapshot: Snapshot) -> bool:
        """Time that passes as it should costs nothing."""
        kind, _, seq = name.partition(":")
        if kind == "timer":
            return True
        if kind != "step":
            return False
        row = next(r for r in snapshot.steps if r.seq == int(seq) and r.phase == "forward")
        return row.kind == "wait" and self.definition.flow.spec(row).delay is not None

    def _cancelled(self, place: Place) -> Iterator[Move]:
        if not place.budgets.cancels:
            return
        less = place.budgets._replace(cancels=place.budgets.cancels - 1)
        for index in self.cancels:
            event = self.events[index]
            label = f"{type(event).__name__} arrives"
            key = Arrival(index)
            spent = place._replace(budgets=less)
            yield from self._fed(spent, label, key, Received(event, "m"), key)

    # The saga itself

    def _fed(
        self,
        place: Place,
        label: str,
        key: Hashable,
        input: Input,
        arrival: Arrival | None = None,
    ) -> Iterator[Move]:
        turn = self.machine.turn(place.at, key, input)
        yield label, self._turned(place, turn, arrival), turn.broken
        if turn.ran and place.budgets.rejections:
            turn = self.machine.turn(place.at, key, input, local=False)
            less = place.budgets._replace(rejections=place.budgets.rejections - 1)
            after = self._turned(place, turn, arrival)._replace(budgets=less)
            yield f"{label}, its local step says no", after, turn.broken

    def _turned(self, place: Place, turn: Turn, arrival: Arrival | None) -> Place:
        effects = place.effects
        for each in turn.applied:
            known = _effect(place, each)
            effects = _with(effects, known._replace(state="done", applied=known.applied + 1))
        for each in turn.undone:
            known = _effect(place, each)
            effects = _with(effects, known._replace(state="undone", undone=known.undone + 1))
        held = place.held + ((arrival,) if turn.held and arrival is not None else ())
        things: tuple[Any, ...] = turn.commands
        if turn.drain and not turn.held:
            things, held = (*things, *held), ()
        calls = place.calls
        for effect, phase in turn.calls:
            if all(each[0] != effect for each in calls):
                calls = tuple(sorted((*calls, (effect, phase, 0))))
        moved = place._replace(at=turn.snapshot, effects=effects, held=held, calls=calls)
        return self._flying(moved, things)

    def _answered(self, place: Place, effect: Effect, answer: Answer | Ended) -> Place:
        moved = place._replace(effects=_with(place.effects, effect))
        return self._flying(moved, (answer,))

    def _flying(self, place: Place, things: tuple[Any, ...]) -> Place:
        if not things:
            return place
        numbers = [self._number(thing) for thing in things]
        return place._replace(flying=tuple(sorted((*place.flying, *numbers))))

    def _number(self, thing: Any) -> int:
        number = self._numbers.setdefault(thing, len(self._things))
        if number == len(self._things):
            self._things.append(thing)
        return number

    def named(self, thing: Any, snapshot: Snapshot) -> str:
        """What a delivery is called."""
        match thing:
            case Command(step, phase, _):
                return f"{_word(phase)} {step}"
            case Answer(effect, outcome, undo, _):
                step = _name(_row(snapshot, effect))
                return f"answer of {'undo of ' if undo else ''}{step}: {outcome}"
            case Ended(effect, outcome, _):
                return f"end of call {_name(_row(snapshot, effect))}: {outcome}"
            case _:
                return f"{type(self.events[thing.event]).__name__} is delivered"


def _word(phase: str) -> str:
    return {"forward": "does", "undo": "undoes", "resolve": "is asked about"}[phase]


def _name(row: StepRow | None) -> str:
    return "nothing known" if row is None else row.name


def _row(snapshot: Snapshot, effect: UUID) -> StepRow | None:
    return next((row for row in snapshot.steps if row.effect_id == effect), None)


def _sibling(snapshot: Snapshot, effect: UUID, phase: str) -> UUID:
    """The effect of the same step in that phase."""
    seq = next(row.seq for row in snapshot.steps if row.effect_id == effect)
    return next(r.effect_id for r in snapshot.steps if (r.seq, r.phase) == (seq, phase))


def _effect(place: Place, id: UUID) -> Effect:
    return next((each for each in place.effects if each.id == id), Effect(id))


def _with(effects: tuple[Effect, ...], effect: Effect) -> tuple[Effect, ...]:
    others = [each for each in effects if each.id != effect.id]
    return tuple(sorted([*others, effect]))


def _less(flying: tuple[int, ...], thing: int) -> tuple[int, ...]:
    place = flying.index(thing)
    return flying[:place] + flying[place + 1 :]
