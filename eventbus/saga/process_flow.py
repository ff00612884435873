"""How an event-driven process goes on: by its methods, which yield what is to be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from eventbus.codec import plan_of
from eventbus.errors import Finding, SagaMethodError
from eventbus.event import Command, Event, Reply, TypedMessage, reply_of
from eventbus.saga.actions import Cancel, Complete, Correlate, Deadline, Do, Publish, Timer
from eventbus.saga.decision import Key
from eventbus.saga.definition import Definition, Resend, StepSpec, wire_name
from eventbus.saga.draft import DEADLINE, Draft, wrong_answer
from eventbus.saga.firing import AUTHORS
from eventbus.saga.naming import answers_of, named_by
from eventbus.saga.sending import passed_pivot, start
from eventbus.saga.step_flow import command_from
from eventbus.saga.step_log import OPEN, Note, encoded, note_of, noted
from eventbus.storage.sagas import Phase, StepRow

INITIAL = "initial"
_OPTIONS = ("command", "undo", "timeout", "on_unknown", "pivot", "no_undo")
OnUnexpected = Literal["record", "hold", "stuck", "fail"]


@dataclass(frozen=True, slots=True)
class Transition:
    """A method, what it takes, in which states, and the state that follows."""

    what: Any  # a message class, or the name of a timer
    when: tuple[str, ...]
    to: str | None
    method: Any

    @property
    def name(self) -> str:
        """What it takes, for people."""
        return self.what if isinstance(self.what, str) else str(self.what.__name__)


class ProcessFlow:
    """States, and what leads from one to the next."""

    def __init__(
        self,
        process: object,
        *,
        states: tuple[str, ...],
        starts: Mapping[type[Event], Any],
        transitions: tuple[Transition, ...],
        undos: Mapping[str, Any],
        undo_commands: Mapping[str, type[Command[Any]]],
        messages: Sequence[type[TypedMessage]],
        on_unexpected: OnUnexpected,
        step_timeout: timedelta | None,
    ) -> None:
        self.needs_reply: bool = True  # only an answer leads on
        self.process = process
        self.states = states
        self.transitions = transitions
        self.on_unexpected = on_unexpected
        self._starts = starts
        self._undos = undos
        self._undo_commands = undo_commands
        self._step_timeout = step_timeout
        self._commands = {wire_name(c): c for c in messages if issubclass(c, Command)}
        self._by = {(t.what, state): t for t in transitions for state in t.when}
        self._specs: dict[tuple[Any, ...], StepSpec] = {}

    def _bound(self, function: Any) -> Any:
        return function.__get__(self.process, type(self.process))

    def body(self, step: str, phase: Phase) -> Any:
        """A process has neither local steps nor calls."""
        raise LookupError(step)

    def waited(self, draft: Draft, row: StepRow, event: Event | None) -> None:
        """A process has no steps that wait."""
        raise LookupError(row.name)

    # Inputs

    def begin(self, draft: Draft, event: Event) -> None:
        """The first state, and what the starting event does in it."""
        method = self._bound(self._starts[type(event)])
        state = draft.guarded(method, event)
        if state is None:
            raise wrong_answer(method, draft.where, state, draft.definition.state.__name__)
        draft.take(state, method)
        draft.state_name = INITIAL
        transition = self._by.get((type(event), INITIAL))
        if transition is not None:
            self._go(draft, transition, event)

    def received(self, draft: Draft, event: Event) -> None:
        """An event is taken by the method of the state, or is unexpected."""
        transition = self._by.get((type(event), draft.state_name or INITIAL))
        if transition is not None:
            self._go(draft, transition, event)
        elif type(event) in self._starts:
            draft.ignore("duplicate")
        elif self.on_unexpected == "hold":
            draft.ignore("held")
        else:
            self._unexpected(draft, type(event).__name__, str(wire_name(type(event))))

    def rang(self, draft: Draft, name: str) -> None:
        """A timer is taken by the method of the state, or is unexpected."""
        transition = self._by.get((name, draft.state_name or INITIAL))
        if transition is not None:
            self._go(draft, transition)
        elif self.on_unexpected in {"record", "hold"}:
            draft.ignore("unexpected")
        else:
            self._unexpected(draft, repr(name), f"timer {name!r}")

    def answered(self, draft: Draft, row: StepRow, reply: Reply) -> None:
        """A reply is taken by the method of the state; a rejection without one turns back."""
        if draft.plan is not None:
            return
        transition = self._by.get((type(reply), draft.state_name or INITIAL))
        if transition is not None:
            draft.log.put(noted(row, taken=True))
            self._go(draft, transition, reply)
        elif row.status == "succeeded":
            if self.on_unexpected == "hold":
                draft.log.put(noted(row, held=True))
            elif self.on_unexpected != "record":
                self._unexpected(draft, type(reply).__name__, str(wire_name(type(reply))))

    def _unexpected(self, draft: Draft, name: str, wire: str) -> None:
        error = no_transition(draft, self, name, wire)
        match self.on_unexpected:
            case "stuck":
                draft.stick("unexpected", error.what)
            case "fail":
                raise error
            case _:
                draft.ignore("unexpected")

    # Transitions

    def _go(self, draft: Draft, transition: Transition, *what: object) -> None:
        method = self._bound(transition.method)
        actions = draft.guarded(_all_of, method, draft.state, *what)
        if transition.to is not None and transition.to != draft.state_name:
            draft.state_name = transition.to
            draft.drain = True
        for action in actions:
            self._act(draft, method, action)
        self._offer(draft)

    def _offer(self, draft: Draft) -> None:
        """Replies that came before their state are taken when it is there."""
        for row in draft.log.forwards:
            note = note_of(row)
            if not note.held:
                continue
            spec = self.spec(row)
            transition = self._by.get((spec.replies, draft.state_name or INITIAL))
            if transition is not None and spec.replies is not None and row.reply is not None:
                draft.log.put(noted(row, held=False, taken=True))
                self._go(draft, transition, plan_of(spec.replies).read(row.reply))
                return

    def _act(self, draft: Draft, method: Any, action: object) -> None:
        match action:
            case Do():
                self._do(draft, action)
            case Deadline(delay):
                draft.arm(DEADLINE, delay)
            case Timer(name, delay):
                draft.arm(AUTHORS + name, delay)
            case Correlate(name, value):
                draft.keys.append(Key(name, value))
            case Publish(event):
                draft.events.append(event)
            case Complete():
                _complete(draft)
            case Cancel(reason):
                if not passed_pivot(draft):
                    draft.intent = draft.intent or reason
            case _:
                raise wrong_answer(method, draft.where, action, "an action")

    def _do(self, draft: Draft, do: Do[Any]) -> None:
        wrong = self._wrong_with(draft, do)
        if wrong is not None:
            raise _not_allowed(draft, do, *wrong)
        plan = plan_of(type(do.command))
        said = {
            "command": plan.wire.type,
            "body": plan.write(do.command).decode(),
            "undo": None if do.undo is None else getattr(do.undo, "__name__", None),
            "timeout": _seconds(do.timeout or self._step_timeout),
            "resend": [do.resend.attempts, *map(_seconds, (do.resend.first, do.resend.cap))],
            "on_unknown": do.on_unknown,
            "pivot": do.pivot,
            "no_undo": do.no_undo,
        }
        kept = {name: value for name, value in said.items() if value}
        start(draft, self._spec_of(do.name, kept), encoded(Note(do=kept)))

    def _wrong_with(self, draft: Draft, do: Do[Any]) -> tuple[str, str] | None:
        """Rules of the linter that only show when the action is yielded."""
        forward_only = do.pivot or passed_pivot(draft)
        pivots = [row for row in draft.log.forwards if self.spec(row).pivot]
        if wire_name(type(do.command)) not in self._commands:
            return "EB7009", "no method of the process names its class"
        if do.undo is not None and getattr(do.undo, "__name__", "") not in self._undos:
            return "EB7009", "its undo is no @undo method of the process"
        if do.undo is None and do.no_undo is None and not forward_only:
            return "SAGA001", "it has neither an undo nor a reason for having none"
        if do.undo is not None and forward_only:
            return "SAGA003", "the pivot is not undone, nor what follows it"
        if do.timeout is None and self._step_timeout is None:
            return "SAGA005", "it has no time limit"
        if do.pivot and pivots:
            return "SAGA002", f"it is a second pivot after {pivots[0].name}"
        if do.pivot and do.on_unknown not in {"resolve", "stuck"}:
            return "SAGA016", "a pivot says what follows when its outcome is unknown"
        return None

    # What the core asks

    def spec(self, row: StepRow) -> StepSpec:
        """What `Do` said when the step was begun."""
        return self._spec_of(row.name, note_of(row).do or {})

    def _spec_of(self, name: str, do: Mapping[str, Any]) -> StepSpec:
        """One value per way of doing a step, made once; the command is no part of it."""
        key = (name, *(do.get(each) for each in _OPTIONS), *do.get("resend", ()))
        spec = self._specs.get(key)
        if spec is None:
            spec = self._specs[key] = self._spec(name, do)
        return spec

    def _spec(self, name: str, do: Mapping[str, Any]) -> StepSpec:
        command = self._commands[do["command"]]
        attempts, first, cap = do["resend"]
        timeout, undo = do.get("timeout"), do.get("undo")
        return StepSpec(
            name=name,
            command=command,
            replies=reply_of(command),
            rejects=command.__rejects__,
            undo=undo,
            undo_command=self._undo_commands.get(undo or ""),
            timeout=None if timeout is None else timedelta(seconds=timeout),
            resend=Resend(
                attempts=attempts, first=timedelta(seconds=first), cap=timedelta(seconds=cap)
            ),
            on_unknown=do.get("on_unknown"),
            pivot=do.get("pivot", False),
            no_undo=do.get("no_undo"),
        )

    def command(self, draft: Draft, row: StepRow) -> Command[Any]:
        """The command that `Do` named, as it was then."""
        do = note_of(row).do or {}
        command = plan_of(self._commands[do["command"]]).read(do["body"].encode())
        assert isinstance(command, Command)  # noqa: S101 - the table holds commands only
        return command

    def undo(self, draft: Draft, row: StepRow, reply: Reply | None) -> Command[Any]:
        """What the undo's method makes of the state and the reply."""
        spec = self.spec(row)
        method = self._bound(self._undos[str(spec.undo)])
        return command_from(draft, method, draft.call(method, reply), spec.undo_command)

    def onward(self, draft: Draft) -> bool:
        """Only inputs lead on."""
        return False

    # Linting

    def findings(self, definition: Definition) -> list[Finding]:
        """States that nothing reaches or leaves, and replies that their state does not take."""
        return [*self._unreachable(), *self._without_exit(), *self._unanswered()]

    def _unreachable(self) -> list[Finding]:
        reached, todo = {INITIAL}, [INITIAL]
        while todo:
            here = todo.pop()
            for each in self.transitions:
                if here in each.when and each.to is not None and each.to not in reached:
                    reached.add(each.to)
                    todo.append(each.to)
        return [
            _finding("SAGA018", f"nothing leads to state {state}", "name it in to= of an @on")
            for state in self.states
            if state not in reached
        ]

    def _without_exit(self) -> list[Finding]:
        left = {state for each in self.transitions for state in each.when}
        return [
            _finding("SAGA018", f"nothing leads out of state {state}", "add an @on for it")
            for state in self.states
            if state not in left
        ]

    def _unanswered(self) -> list[Finding]:
        """The reply of a command that a method names, in the state that follows it."""
        found: dict[str, Finding] = {}
        for each in self.transitions:
            commands = [c for c in named_by(each.method) if issubclass(c, Command)]
            replies = [r for c in commands for r in answers_of(c)[:1]]
            for state in (each.to,) if each.to is not None else each.when:
                for reply in replies:
                    if (reply, state) not in self._by:
                        what = f"state {state} does not take {reply.__name__}"
                        add = f"add @on({reply.__name__}, when={state})"
                        found[what] = _finding("SAGA006", what, add)
        return list(found.values())


def no_transition(draft: Draft, flow: ProcessFlow, name: str, wire: str) -> SagaMethodError:
    """The state has no `@on` for an input."""
    states = [s for each in flow.transitions if each.name == name for s in each.when]
    cls = type(flow.process).__name__
    others = f"has an @on({name}), but not when={draft.state_name}"
    return SagaMethodError(
        "EB7006",
        f"saga {draft.definition.saga} {draft.before.key} has no transition for {wire} "
        f"in state {draft.state_name!r}",
        where=f"journal entry {draft.before.version + 1}",
        why=f"{cls} {others if states else f'has no @on({name})'}",
        next=f"on_unexpected={flow.on_unexpected!r} is the policy; others: record, hold, "
        "stuck, fail",
    )


def _complete(draft: Draft) -> None:
    busy = [row.name for row in draft.log.forwards if row.status in {*OPEN, "failed"}]
    if busy:
        raise SagaMethodError(
            "EB7009",
            f"saga {draft.where} completes while {', '.join(busy)} is in flight",
            where=f"state {draft.state_name!r}",
            why="what became of it would never be known",
            next="yield Complete() when the last answer is there",
        )
    draft.status, draft.error = "completed", None


def _not_allowed(draft: Draft, do: Do[Any], code: str, why: str) -> SagaMethodError:
    rule = "" if code == "EB7009" else f"{code}: "
    return SagaMethodError(
        "EB7009",
        f"saga {draft.where} may not do {do.name!r}",
        where=f"state {draft.state_name!r}",
        why=f"{rule}{why}",
        next="mend the action and deploy; then: eventbus saga retry",
    )


def _finding(code: str, what: str, next: str) -> Finding:
    why = "a saga that is there waits until its deadline, and turns back or gets stuck"
    return Finding(level="refuse", code=code, what=what, why=why, next=next)


def _all_of(method: Any, *arguments: object) -> list[object]:
    return [*(method(*arguments) or ())]


def _seconds(delay: timedelta | None) -> float | None:
    return None if delay is None else delay.total_seconds()
