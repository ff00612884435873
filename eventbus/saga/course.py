"""Several inputs of one saga in one transaction: what its engine feeds, and what it writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from eventbus.saga.advance import advance
from eventbus.saga.decision import Decision
from eventbus.saga.definition import Definition
from eventbus.saga.input import Input, TimerFired
from eventbus.saga.instance import Instance, Steps
from eventbus.storage.sagas import (
    Arm,
    CallRequest,
    Correlation,
    JournalEntry,
    Phase,
    SagaChange,
    SagaRecord,
    StepRow,
)
from eventbus.values import copier

_copied, _entry = copier(Instance), copier(JournalEntry)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a course to which it can return."""

    saga: Instance
    steps: Steps
    moved: Definition | None
    put: Mapping[tuple[int, Phase], StepRow]
    arm: Mapping[str, Arm]
    disarm: Mapping[str, None]
    calls: Mapping[object, CallRequest]
    journal: int


class Course:
    """One locked saga: each input meets what the decision before left.

    A decision that raises changes nothing: the inputs before it stand, the next may follow.
    """

    def __init__(self, definition: Definition, record: SagaRecord) -> None:
        self.definition = definition
        self.saga: Instance = Instance.of(record)
        self.steps: Steps = tuple(record.steps)
        self._now: datetime = record.now
        self._was: int = record.version
        self._moved: Definition | None = None
        self._put: dict[tuple[int, Phase], StepRow] = {}
        self._arm: dict[str, Arm] = {}
        self._disarm: dict[str, None] = {}
        self._calls: dict[object, CallRequest] = {}
        self._journal: list[JournalEntry] = []
        self._pinned = (record.definition, record.digest)

    def feed(self, input: Input) -> Decision | None:
        """Decide; None: a timer that a decision before moved or ended, nothing happened."""
        if isinstance(input, TimerFired) and (
            input.name in self._arm or input.name in self._disarm
        ):
            return None
        decision = advance(self.definition, self.saga, self.steps, input, self._now)
        self._note(decision)
        return decision

    def _note(self, decision: Decision) -> None:
        self.saga = after(self.saga, decision)
        self.steps = steps_after(self.steps, decision)
        self._put.update({(row.seq, row.phase): row for row in decision.steps})
        for name in decision.disarm:
            self._arm.pop(name, None)
            self._disarm[name] = None
        for arm in decision.arm:
            self._disarm.pop(arm.name, None)
            self._arm[arm.name] = arm
        self._calls.update({call.effect_id: call for call in decision.calls})
        self._journal.append(decision.journal)
        if decision.ignored is None and decision.data_version == self.definition.version:
            self._moved = self.definition

    def mark(self) -> Mark:
        """Where it stands, for `back`."""
        return Mark(
            self.saga,
            self.steps,
            self._moved,
            dict(self._put),
            dict(self._arm),
            dict(self._disarm),
            dict(self._calls),
            len(self._journal),
        )

    def back(self, mark: Mark) -> None:
        """Forget what was decided since then: what failed after its decision changes nothing."""
        self.saga, self.steps, self._moved = mark.saga, mark.steps, mark.moved
        self._put, self._arm = dict(mark.put), dict(mark.arm)
        self._disarm, self._calls = dict(mark.disarm), dict(mark.calls)
        del self._journal[mark.journal :]

    def arm(self, name: str, delay: timedelta) -> None:
        """Arm a timer beside what is decided: one that could not be acted on."""
        self._disarm.pop(name, None)
        self._arm[name] = Arm(name, self.saga.version, delay)

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._journal)

    @property
    def touched(self) -> bool:
        """Whether it is not any more as it was locked."""
        return bool(self._journal or self._arm)

    def change(self, *, worker: str, correlations: tuple[Correlation, ...] = ()) -> SagaChange:
        """All transitions as one write.

        Args:
            worker: who made them, for the journal.
            correlations: those of the decisions, with the tenant before the value.
        """
        version, digest = self._pinned
        if self._moved is not None:
            version, digest = self._moved.version, self._moved.digest
        saga = self.saga
        return SagaChange(
            saga_id=saga.saga_id,
            was=self._was,
            version=saga.version,
            definition=version,
            digest=digest,
            status=saga.status,
            paused=saga.paused,
            intent=saga.intent,
            state_name=saga.state_name,
            data=saga.data,
            data_version=saga.data_version,
            plan=None if saga.plan is None else saga.plan.encoded(),
            error=None if saga.error is None else saga.error.encoded(),
            steps=tuple(self._put.values()),
            arm=tuple(self._arm.values()),
            disarm=tuple(self._disarm),
            calls=tuple(self._calls.values()),
            correlations=correlations,
            journal=tuple(_entry(entry, worker=worker) for entry in self._journal),
        )


def after(saga: Instance, decision: Decision) -> Instance:
    """The instance as the decision leaves it."""
    return _copied(
        saga,
        status=decision.status,
        paused=decision.paused,
        intent=decision.intent,
        state_name=decision.state_name,
        data=decision.data,
        data_version=decision.data_version,
        plan=decision.plan,
        error=decision.error,
        version=decision.journal.version,
    )


def steps_after(steps: Steps, decision: Decision) -> tuple[StepRow, ...]:
    """The step log as the decision leaves it."""
    rows = {(row.seq, row.phase): row for row in steps}
    rows.update({(row.seq, row.phase): row for row in decision.steps})
    return tuple(rows.values())
