"""One transition in the making: what the rules read and change, and the decision it becomes."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ValidationError

from eventbus.errors import IllegalTransitionError, SagaError, SagaMethodError
from eventbus.event import Event
from eventbus.saga import journal
from eventbus.saga.decision import Decision, Key, LocalRun, Send
from eventbus.saga.input import Input
from eventbus.saga.instance import Instance, Plan, Reason, Stuck
from eventbus.saga.step_log import StepLog
from eventbus.storage.sagas import Arm, CallRequest, Phase, Status, StepRow

if TYPE_CHECKING:
    from eventbus.saga.definition import Definition, Method

FINAL = frozenset({"completed", "compensated"})
LARGEST_STATE = 1 << 20  # bytes of JSON
MOST_STEPS = 1000
DEADLINE = "deadline"


class Draft:
    """Holds a copy of the saga; nothing outside changes until the decision is written."""

    def __init__(
        self, definition: "Definition", saga: Instance, log: StepLog, now: datetime
    ) -> None:
        self.definition = definition
        self.before = saga
        self.now = now
        self.log = log
        self.status: Status = saga.status
        self.paused: bool = saga.paused
        self.intent: str | None = saga.intent
        self.state_name: str | None = saga.state_name
        self.plan: Plan | None = saga.plan
        self.error: Stuck | None = saga.error
        self.data: bytes = saga.data
        self.data_version: int = saga.data_version
        self.ignored: str | None = None
        self.drain: bool = False
        self.commands: list[Send] = []
        self.events: list[Event] = []
        self.local_runs: list[LocalRun] = []
        self.calls: list[CallRequest] = []
        self.keys: list[Key] = []
        self._state: BaseModel | None = None
        self._arm: dict[str, timedelta] = {}
        self._disarm: dict[str, None] = {}

    @property
    def where(self) -> str:
        """For messages to people."""
        return f"{self.definition.saga} {self.before.key} ({self.before.saga_id})"

    # The state

    @property
    def state(self) -> BaseModel:
        """The author's private copy, decoded when it is first asked for.

        Raises:
            SagaMethodError: EB7004, what is stored does not validate any more.
        """
        if self._state is None:
            try:
                self._state = self.definition.state.model_validate_json(self.data)
            except ValidationError as error:
                raise SagaMethodError(
                    "EB7004",
                    f"the state of saga {self.where} does not validate",
                    where=f"{self.definition.state.__name__}, version {self.before.data_version}",
                    why=f"{error.error_count()} fields: {_fields(error)}",
                    next="mend the class or write @migrates, deploy; then: eventbus saga retry",
                ) from None
        return self._state

    def call(self, method: "Method", *arguments: object) -> Any:
        """Run the author's method on the state.

        Raises:
            SagaMethodError: EB7002, it raised.
        """
        return self.guarded(method, self.state, *arguments)

    def guarded(self, method: "Method", *arguments: object) -> Any:
        """Run an author's function.

        Raises:
            SagaMethodError: EB7002, it raised.
        """
        try:
            return method(*arguments)
        except Exception as error:  # the author's function: whatever it raises
            raise method_failed(method, self.where, error) from error

    def take(self, answer: object, method: object) -> None:
        """What a method answered that may change the state, or return another one.

        Raises:
            SagaMethodError: EB7003, it answered neither None nor a state.
        """
        if answer is None:
            return
        if not isinstance(answer, self.definition.state):
            raise wrong_answer(method, self.where, answer, self.definition.state.__name__)
        self._state = answer

    def replace_data(self, data: bytes) -> None:
        """The state as a local step left it."""
        self.data, self._state = data, None

    # What the rules do

    def ignore(self, what: str) -> None:
        """Nothing of it counts; the journal says so."""
        self.ignored = what

    def arm(self, name: str, delay: timedelta) -> None:
        """Arm a timer, or move it."""
        self._disarm.pop(name, None)
        self._arm[name] = delay

    def disarm(self, name: str) -> None:
        """It does not fire any more."""
        self._arm.pop(name, None)
        self._disarm[name] = None

    def stick(self, reason: Reason, what: str, row: StepRow | None = None) -> None:
        """Wait for a person; stuck already, it still returns to where it came from first."""
        before = self.error.came_from if self.error is not None else self.status
        self.error = Stuck(
            reason=reason,
            came_from=before,
            seq=None if row is None else row.seq,
            phase="forward" if row is None else row.phase,
            what=what,
        )
        self.status = "stuck"

    def unstick(self) -> None:
        """Back to the status it came from.

        Raises:
            IllegalTransitionError: EB7001, it is not stuck.
        """
        if self.error is None:
            raise illegal(self, "leaves a status in which it is not")
        self.status, self.error = self.error.came_from, None

    # What it becomes

    def decision(self, input: Input) -> Decision:
        """All that is to be written and sent.

        Raises:
            SagaError: EB7005, the state or the step log is too large.
        """
        if self.ignored is not None:
            return self._nothing(input)
        data = self._encoded()
        ends = self.status in FINAL
        version = self.before.version + 1
        return Decision(
            status=self.status,
            paused=self.paused,
            intent=self.intent,
            state_name=self.state_name,
            data=data,
            data_version=self.data_version,
            plan=self.plan,
            error=self.error,
            steps=self._steps(),
            commands=tuple(self.commands),
            events=tuple(self.events),
            local_runs=tuple(self.local_runs),
            calls=tuple(self.calls),
            arm=()
            if ends
            else tuple(Arm(name, version, delay) for name, delay in self._arm.items()),
            disarm=() if ends else tuple(self._disarm),
            correlations=(*self._correlations(data), *self.keys),
            drain=self.drain,
            journal=journal.entry(self.before, self.status, input, self.now, None),
        )

    def _nothing(self, input: Input) -> Decision:
        saga = self.before
        return Decision(
            status=saga.status,
            paused=saga.paused,
            intent=saga.intent,
            state_name=saga.state_name,
            data=saga.data,
            data_version=saga.data_version,
            plan=saga.plan,
            error=saga.error,
            journal=journal.entry(saga, saga.status, input, self.now, self.ignored),
            ignored=self.ignored,
        )

    def _encoded(self) -> bytes:
        if self._state is None:
            return self.data
        data = self._state.model_dump_json().encode()
        if len(data) > LARGEST_STATE:
            raise _too_large(self.where, f"its state has {len(data):,} bytes of JSON")
        return data

    def _steps(self) -> tuple[StepRow, ...]:
        if len(self.log.forwards) > MOST_STEPS:
            raise _too_large(self.where, f"it has more than {MOST_STEPS:,} steps")
        return self.log.changed

    def _correlations(self, data: bytes) -> list[Key]:
        """Fields by which events find it, where they changed."""
        names = self.definition.correlated
        if not names or data == self.before.data:
            return []
        old: dict[str, Any] = orjson.loads(self.before.data) if self.before.data else {}
        new: dict[str, Any] = orjson.loads(data)
        return [
            Key(name, str(new[name]))
            for name in names
            if new.get(name) is not None and new[name] != old.get(name)
        ]


def phase_timer(phase: Phase | str, seq: int) -> str:
    """The timer of a step: `step:3`, `resolve:3`, `undo:3`."""
    return f"{'step' if phase == 'forward' else phase}:{seq}"


def method_failed(method: object, where: str, error: Exception) -> SagaMethodError:
    """The author's method raised."""
    name = getattr(method, "__qualname__", repr(method))
    return SagaMethodError(
        "EB7002",
        f"{name} failed: {type(error).__name__}",
        where=f"saga {where}",
        why=str(error) or "it says nothing more",
        next="mend it and deploy; then: eventbus saga retry",
    )


def wrong_answer(method: object, where: str, answer: object, wanted: str) -> SagaMethodError:
    """The author's method answered what it may not."""
    name = getattr(method, "__qualname__", repr(method))
    return SagaMethodError(
        "EB7003",
        f"{name} answered {type(answer).__name__}, not {wanted}",
        where=f"saga {where}",
        why="the transition cannot be made from that",
        next=f"return {wanted}; then: eventbus saga retry",
    )


def illegal(draft: Draft, what: str) -> IllegalTransitionError:
    """A rule of ours was about to be broken."""
    return IllegalTransitionError(
        "EB7001",
        f"saga {draft.where} {what}",
        where=f"status {draft.status}, version {draft.before.version}",
        why="the rules of sagas forbid it, so this is a bug of the framework",
        next="nothing was written; report it with the output of: eventbus saga show",
    )


def _too_large(where: str, what: str) -> SagaError:
    return SagaError(
        "EB7005",
        f"saga {where} is too large: {what}",
        where="the transition that made it so; nothing of it was written",
        why=f"at most {LARGEST_STATE:,} bytes of state and {MOST_STEPS:,} steps",
        next="keep large data elsewhere and a reference in the state; end loops",
    )


def _fields(error: ValidationError) -> str:
    found = {".".join(str(part) for part in each["loc"]) or "the body" for each in error.errors()}
    return ", ".join(sorted(found))
