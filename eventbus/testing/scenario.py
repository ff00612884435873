"""scenario(PlaceOrder).given(…).when_reply(…).then_sent(…): a saga in virtual time."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from eventbus.event import Command, Event, Rejection, Reply
from eventbus.saga.advance import advance
from eventbus.saga.course import after, steps_after
from eventbus.saga.decision import Decision
from eventbus.saga.definition import Definition, definition_of
from eventbus.saga.input import (
    CallDone,
    Input,
    LocalDone,
    Outcome,
    Received,
    Replied,
    Started,
    TimerFired,
    Verb,
)
from eventbus.saga.instance import Instance
from eventbus.saga.preview import preview
from eventbus.storage.sagas import Status, StepRow
from eventbus.testing.saga_machine import SAGA_ID

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def scenario(saga: type[Any] | Definition, *, rejects: Collection[str] = ()) -> "Scenario":
    """A saga without broker and database: the test says what comes next, and how time passes.

    Bodies of local steps are not run: they succeed in the transition, as they would.

    Args:
        saga: the class.
        rejects: local steps that say no.
    """
    definition = saga if isinstance(saga, Definition) else definition_of(saga)
    return Scenario(definition, frozenset(rejects))


class Scenario:
    """One saga. `when_…` makes something happen, `then_…` looks at what that led to.

    Every method answers the scenario, so that they can be written one after another.

    Raises:
        AssertionError: in `then_…`, it is otherwise; in `when_…`, it cannot happen.
    """

    def __init__(self, definition: Definition, rejects: frozenset[str]) -> None:
        self._definition = definition
        self._rejects = rejects
        self._saga = Instance(saga_id=SAGA_ID, key="", data_version=definition.version)
        self._steps: tuple[StepRow, ...] = ()
        self._timers: dict[str, datetime] = {}
        self._now: datetime = _BEGIN
        self._waiting: list[Input] = []  # held, or came while it was paused
        self._made: list[Decision] = []
        self._story: list[str] = []

    # given and when

    def given(self, event: Event) -> "Scenario":
        """The event that starts it."""
        return self._when(f"given {event!r}", Started(event))

    def when_event(self, event: Event) -> "Scenario":
        """An event finds the saga."""
        return self._when(f"event {event!r}", Received(event))

    def when_reply(self, step: str, reply: Reply) -> "Scenario":
        """The participant answers; a rejection is told by its class."""
        outcome: Outcome = "rejected" if isinstance(reply, Rejection) else "succeeded"
        return self._answer(step, "forward", outcome, reply)

    def when_cancelled(self, step: str) -> "Scenario":
        """The participant says that it did nothing, and never will."""
        return self._answer(step, "forward", "cancelled", None)

    def when_unknown(self, step: str) -> "Scenario":
        """The participant, or the worker of a call, gave up without an outcome."""
        return self._answer(step, "forward", "unknown", None)

    def when_undone(self, step: str) -> "Scenario":
        """The undo of the step is confirmed."""
        return self._answer(step, "undo", "undone", None)

    def when_undo_rejected(self, step: str, reply: Rejection | None = None) -> "Scenario":
        """The undo of the step is refused."""
        return self._answer(step, "undo", "rejected", reply)

    def when_verb(self, name: str, *, reason: str = "by the test", **arguments: Any) -> "Scenario":
        """An operator does something."""
        return self._when(f"verb {name}", Verb(name, arguments, "test", reason))

    def when_time_passes(self, delay: timedelta) -> "Scenario":
        """What is due by then fires, in the order in which it is due."""
        self._began(f"{delay} pass")
        until = self._now + delay
        if self._saga.paused:
            self._timers = {name: due + delay for name, due in self._timers.items()}
        while due := sorted((at, name) for name, at in self._timers.items() if at <= until):
            self._now, name = due[0]
            del self._timers[name]
            self._feed(TimerFired(name))
        self._now = until
        return self

    # then

    def then_sent(self, *commands: type[Command[Any]] | Command[Any]) -> "Scenario":
        """Exactly these commands, in order: classes, or values to be equal to."""
        sent = [send.command for each in self._made for send in each.commands]
        fits = len(sent) == len(commands) and all(
            type(one) is wanted if isinstance(wanted, type) else one == wanted
            for one, wanted in zip(sent, commands, strict=True)
        )
        return self._then(fits, f"sent {_names(commands)}", f"sent {_names(sent)}")

    def then_published(self, *events: Event) -> "Scenario":
        """Exactly these events, in order."""
        published = [event for each in self._made for event in each.events]
        told = f"published {_names(published)}"
        return self._then(published == [*events], f"published {_names(events)}", told)

    def then_status(self, status: Status) -> "Scenario":
        """The status of the saga now."""
        found = self._saga.status
        return self._then(found == status, f"status {status}", f"status {found}")

    def then_stuck(self, reason: str) -> "Scenario":
        """It needs a person, for that reason."""
        error = self._saga.error
        found = "not stuck" if error is None else f"stuck: {error.reason}, {error.what}"
        fits = error is not None and error.reason == reason
        return self._then(fits, f"stuck: {reason}", found)

    def then_ignored(self, what: str) -> "Scenario":
        """The last input changed nothing."""
        found = [each.ignored for each in self._made][-1:] or [None]
        return self._then(found == [what], f"ignored as {what}", f"ignored as {found[0]}")

    def then_state(self, **fields: Any) -> "Scenario":
        """Fields of the state have these values."""
        found = {name: getattr(self.state, name) for name in fields}
        return self._then(found == fields, f"state with {fields}", f"state with {found}")

    def then_would_send(self, text: str) -> "Scenario":
        """What the abort preview says now."""
        found = preview(self._definition, self._saga, self._steps)
        return self._then(found == text, text, found)

    @property
    def state(self) -> Any:
        """The author's state now."""
        return self._definition.state.model_validate_json(self._saga.data)

    @property
    def timers(self) -> dict[str, timedelta]:
        """What is armed, and how long until it is due."""
        return {name: due - self._now for name, due in self._timers.items()}

    # How it goes

    def _answer(self, step: str, phase: str, outcome: Outcome, reply: Reply | None) -> "Scenario":
        rows = [row for row in self._steps if (row.name, row.phase) == (step, phase)]
        if not rows:
            self._fail(f"there is no {phase} step {step!r} to answer")
        row = rows[-1]
        story = f"{'undo of ' if phase == 'undo' else ''}{step}: {outcome}"
        if row.kind == "call":
            said: Outcome = "succeeded" if outcome == "undone" else outcome
            return self._when(story, CallDone(row.effect_id, 0, said, reply))
        return self._when(story, Replied(row.effect_id, outcome, reply))

    def _when(self, story: str, input: Input) -> "Scenario":
        self._began(story)
        if self._saga.paused and isinstance(input, Received | Replied):
            self._waiting.append(input)
        else:
            self._feed(input)
        return self

    def _began(self, story: str) -> None:
        self._made = []
        self._story.append(story)

    def _feed(self, input: Input) -> None:
        decision = advance(self._definition, self._saga, self._steps, input, self._now)
        self._made.append(decision)
        self._saga = after(self._saga, decision)
        self._steps = steps_after(self._steps, decision)
        for name in decision.disarm:
            self._timers.pop(name, None)
        self._timers.update({arm.name: self._now + arm.delay for arm in decision.arm})
        if decision.status in {"completed", "compensated"}:
            self._timers.clear()
        if decision.ignored == "held":
            self._waiting.append(input)
        for run in decision.local_runs:
            no = run.step in self._rejects and run.phase == "forward"
            data = None if no else run.data
            self._feed(LocalDone(run.effect_id, "rejected" if no else "succeeded", data))
        if decision.drain:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                self._feed(each)

    def _then(self, fits: bool, wanted: str, found: str) -> "Scenario":
        if not fits:
            self._fail(f"wanted {wanted}\n found  {found}")
        return self

    def _fail(self, what: str) -> None:
        story = "\n".join(f"  {number} {line}" for number, line in enumerate(self._story, 1))
        saga = replace(self._saga, data=b"")
        raise AssertionError(
            f"{what}\nafter\n{story}\nstatus {saga.status}, steps "
            + ", ".join(f"{row.name} {row.phase} {row.status}" for row in self._steps)
        )


def _names(messages: Collection[object]) -> str:
    names = [each.__name__ if isinstance(each, type) else repr(each) for each in messages]
    return ", ".join(names) or "nothing"
