"""How a saga of declared steps goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from eventbus.errors import Finding, SagaError
from eventbus.event import Command, Event, Reply
from eventbus.saga.definition import Definition, StepSpec
from eventbus.saga.draft import Draft, phase_timer, wrong_answer
from eventbus.saga.sending import passed_pivot, skip, start
from eventbus.saga.step_log import OPEN, changed
from eventbus.storage.sagas import Phase, StepRow

ByEvent = dict[type[Event], Any]
ByStep = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Methods:
    """The author's functions, unbound."""

    starts: ByEvent = field(default_factory=ByEvent)
    cancels: ByEvent = field(default_factory=ByEvent)
    forward: ByStep = field(default_factory=ByStep)
    reply: ByStep = field(default_factory=ByStep)
    undo: ByStep = field(default_factory=ByStep)


class StepFlow:
    """Steps one after another, neighbours of one `parallel` name together."""

    def __init__(self, saga: object, steps: Sequence[StepSpec], methods: Methods) -> None:
        self.needs_reply: bool = False
        self.saga = saga
        self._steps = {spec.name: spec for spec in steps}
        self._methods = methods

    def method(self, of: dict[Any, Any], key: Any) -> Any:
        """A function of the class, bound to its object."""
        return of[key].__get__(self.saga, type(self.saga))

    def body(self, step: str, phase: Phase) -> Any:
        """The body of a local or call step, or of its undo."""
        return self.method(self._methods.undo if phase == "undo" else self._methods.forward, step)

    def begin(self, draft: Draft, event: Event) -> None:
        """The first state."""
        method = self.method(self._methods.starts, type(event))
        state = draft.guarded(method, event)
        if state is None:
            raise wrong_answer(method, draft.where, state, draft.definition.state.__name__)
        draft.take(state, method)

    def spec(self, row: StepRow) -> StepSpec:
        """Of the step that a row belongs to.

        Raises:
            SagaError: EB7008, the class has no such step any more.
        """
        spec = self._steps.get(row.name)
        if spec is None:
            raise step_is_gone(row.name, type(self.saga))
        return spec

    def command(self, draft: Draft, row: StepRow) -> Command[Any]:
        """What the step's method makes of the state as it is now."""
        method = self.method(self._methods.forward, row.name)
        return command_from(draft, method, draft.call(method), self.spec(row).command)

    def undo(self, draft: Draft, row: StepRow, reply: Reply | None) -> Command[Any]:
        """What the undo's method makes of the state and the reply."""
        method = self.method(self._methods.undo, row.name)
        return command_from(draft, method, draft.call(method, reply), self.spec(row).undo_command)

    def answered(self, draft: Draft, row: StepRow, reply: Reply) -> None:
        """Let the author take the reply into the state."""
        if row.status in {"succeeded", "skipped"} and row.name in self._methods.reply:
            method = self.method(self._methods.reply, row.name)
            draft.take(draft.call(method, reply), method)

    def waited(self, draft: Draft, row: StepRow, event: Event | None) -> None:
        """Let the author take the event into the state."""
        method = self.method(self._methods.forward, row.name)
        draft.take(draft.call(method, *(() if event is None else (event,))), method)

    def received(self, draft: Draft, event: Event) -> None:
        """It ends a wait, cancels, is early, or nobody waits for it."""
        for row in draft.log.forwards:
            if row.status == "dispatched" and self.spec(row).event is type(event):
                draft.disarm(phase_timer("forward", row.seq))
                self.waited(draft, draft.log.put(changed(row, status="succeeded")), event)
                return
        if type(event) in self._methods.cancels:
            self._cancel(draft, event)
        elif any(s.event is type(event) for s in self._to_come(draft)):
            draft.ignore("held")
        else:
            draft.ignore("duplicate")

    def _cancel(self, draft: Draft, event: Event) -> None:
        if passed_pivot(draft) or draft.intent is not None:
            draft.ignore("late")
            return
        method = self.method(self._methods.cancels, type(event))
        reason = draft.call(method, event)
        if not isinstance(reason, str):
            raise wrong_answer(method, draft.where, reason, "str")
        draft.intent = reason or "cancelled"

    def rang(self, draft: Draft, name: str) -> None:
        """Declared steps have no timers of their own names."""
        draft.ignore("stray")

    def findings(self, definition: Definition) -> list[Finding]:
        """Declared steps are linted from their data."""
        return []

    def onward(self, draft: Draft) -> bool:
        """Start the next group once what is before it is done."""
        while not any(row.status in OPEN for row in draft.log.forwards):
            to_come = self._to_come(draft)
            if not to_come:
                draft.status = "completed"
                return True
            for spec in _first_group(to_come):
                if spec.when is None or draft.call(spec.when):
                    start(draft, spec)
                else:
                    skip(draft, spec)
        return False

    def _to_come(self, draft: Draft) -> list[StepSpec]:
        begun = {row.name for row in draft.log.forwards}
        return [spec for spec in self._steps.values() if spec.name not in begun]


def command_from(
    draft: Draft, method: Any, answer: object, wanted: type[Command[Any]] | None
) -> Command[Any]:
    """What an author's method answered, if it is the command that it declares.

    Raises:
        SagaMethodError: EB7003, it is not.
    """
    if wanted is None or not isinstance(answer, wanted):
        raise wrong_answer(method, draft.where, answer, getattr(wanted, "__name__", "a command"))
    return answer


def step_named(definition: Definition, name: str) -> StepSpec:
    """A declared step.

    Raises:
        SagaError: EB7008, the class has no such step any more.
    """
    spec = definition.by_name.get(name)
    if spec is None:
        raise step_is_gone(name, definition.source)
    return spec


def step_is_gone(name: str, cls: type[Any]) -> SagaError:
    """A saga is in a step that its class does not have."""
    return SagaError(
        "EB7008",
        f"{cls.__qualname__} has no step {name!r} any more, and a saga is in it",
        where=f"{cls.__module__}.{cls.__qualname__}",
        why="it was removed or renamed without renamed_from= or @migrates",
        next="bring it back, or say renamed_from=; check with: eventbus saga check --in-flight",
    )


def _first_group(steps: Sequence[StepSpec]) -> list[StepSpec]:
    first = steps[0]
    if first.parallel is None:
        return [first]
    return list(takewhile(lambda spec: spec.parallel == first.parallel, steps))
