"""The real `advance` under the explorer: snapshots are interned, transitions made once."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from eventbus.codec import plan_of
from eventbus.errors import SagaError
from eventbus.event import Reply
from eventbus.saga import advance as rules
from eventbus.saga.course import after, steps_after
from eventbus.saga.decision import Decision
from eventbus.saga.definition import Definition
from eventbus.saga.input import Input, LocalDone, Replied, TimerFired
from eventbus.saga.instance import Instance
from eventbus.saga.journal import recorded
from eventbus.storage.sagas import StepRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAGA_ID = UUID("01980000-0000-7000-8000-000000000001")
FINAL = frozenset({"completed", "compensated"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saga between two inputs, without its version: ignored inputs lead nowhere new."""

    saga: Instance
    steps: tuple[StepRow, ...]
    timers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Command:
    """A command in flight: resent ones are the same but for their message id."""

    step: str
    phase: str
    effect: UUID  # the forward effect


@dataclass(frozen=True, slots=True)
class Turn:
    """What an input made of a snapshot."""

    snapshot: int
    commands: tuple[Command, ...]
    calls: tuple[tuple[UUID, str], ...]  # effect of the call, phase
    applied: tuple[UUID, ...]  # local effects, in this transaction
    undone: tuple[UUID, ...]
    ran: bool  # a local step ran that might have said no
    held: bool
    drain: bool
    broken: str | None = None  # a rule of the core that did not hold


class Machine:
    """One definition, explored: every (snapshot, input) is decided once."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.snapshots: list[Snapshot] = []
        self._ids: dict[Snapshot, int] = {}
        self._turns: dict[Hashable, Turn] = {}
        self.decided: int = 0

    def begin(self) -> int:
        """The saga before its first input."""
        saga = Instance(saga_id=SAGA_ID, key="", data_version=self.definition.version, version=0)
        return self.interned(Snapshot(saga, (), frozenset()))

    def interned(self, snapshot: Snapshot) -> int:
        """A number for a snapshot."""
        known = self._ids.setdefault(snapshot, len(self.snapshots))
        if known == len(self.snapshots):
            self.snapshots.append(snapshot)
        return known

    def turn(self, at: int, key: Hashable, input: Input, *, local: bool = True) -> Turn:
        """What the input makes of the snapshot; `local`: its local steps succeed.

        Args:
            at: the snapshot.
            key: names the input.
            input: what happens.
            local: False: the first local step says no.
        """
        found = self._turns.get((at, key, local))
        if found is None:
            found = self._tried(at, input, local)
            self._turns[at, key, local] = found
        return found

    def _tried(self, at: int, input: Input, local: bool) -> Turn:
        """A method of the author that fails is a finding too, with the way that leads there."""
        try:
            return self._decided(at, input, local)
        except SagaError as error:
            broken = f"no method fails ({error.code} {error.what})"
            return Turn(at, (), (), (), (), ran=False, held=False, drain=False, broken=broken)

    def _decided(self, at: int, input: Input, local: bool) -> Turn:
        before = self.snapshots[at]
        decision = self._decide(before, input)
        broken = self._again(before, input, decision)
        decisions, snapshot = [decision], self._after(before, input, decision)
        applied: list[UUID] = []
        undone: list[UUID] = []
        ran = False
        while decision.local_runs:
            run = decision.local_runs[0]
            no = not local and run.phase == "forward" and not ran
            ran = ran or run.phase == "forward"
            if not no:
                done = applied if run.phase == "forward" else undone
                done.append(_forward(snapshot, run.effect_id))
            said = LocalDone(
                run.effect_id, "rejected" if no else "succeeded", None if no else run.data
            )
            decision = self._decide(snapshot, said)
            broken = broken or self._again(snapshot, said, decision)
            snapshot = self._after(snapshot, said, decision)
            decisions.append(decision)
        return Turn(
            snapshot=self.interned(snapshot),
            commands=tuple(
                Command(send.step, send.phase, send.target or send.effect_id)
                for each in decisions
                for send in each.commands
            ),
            calls=tuple((c.effect_id, c.phase) for each in decisions for c in each.calls),
            applied=tuple(applied),
            undone=tuple(undone),
            ran=ran,
            held=decisions[0].ignored == "held",
            drain=any(each.drain for each in decisions),
            broken=broken,
        )

    def _decide(self, at: Snapshot, input: Input) -> Decision:
        self.decided += 1
        return rules.advance(self.definition, at.saga, at.steps, input, NOW)

    def _after(self, before: Snapshot, input: Input, decision: Decision) -> Snapshot:
        timers = set(before.timers)
        if isinstance(input, TimerFired):
            timers.discard(input.name)
        timers.difference_update(decision.disarm)
        timers.update(arm.name for arm in decision.arm)
        if decision.status in FINAL:
            timers.clear()
        rows = sorted(steps_after(before.steps, decision), key=lambda row: (row.seq, row.phase))
        saga = replace(after(before.saga, decision), version=1)
        return Snapshot(saga, tuple(rows), frozenset(timers))

    def _again(self, before: Snapshot, input: Input, decision: Decision) -> str | None:
        """The entry of the journal makes the same decision, and a duplicate makes none."""
        after_it = self._after(before, input, decision)

        def reply_of(effect: UUID) -> Reply | None:
            return self._reply(after_it, effect) or getattr(input, "reply", None)

        past = recorded(decision.journal, self.definition.by_type, reply_of)
        if self._decide(before, past.input) != decision:
            return "the journal run again gives the same saga"
        if isinstance(input, Replied):
            second = self._decide(after_it, input)
            if second.ignored is None or self._after(after_it, input, second) != after_it:
                return "a duplicate changes nothing"
        return None

    def _reply(self, at: Snapshot, effect: UUID) -> Reply | None:
        for row in at.steps:
            if row.effect_id == effect and row.reply is not None and row.reply_type is not None:
                reply = plan_of(self.definition.by_type[row.reply_type]).read(row.reply)
                return reply if isinstance(reply, Reply) else None
        return None


def _forward(snapshot: Snapshot, effect: UUID) -> UUID:
    """The forward effect that a local run belongs to."""
    seq = next(row.seq for row in snapshot.steps if row.effect_id == effect)
    return next(
        row.effect_id for row in snapshot.steps if row.seq == seq and row.phase == "forward"
    )
