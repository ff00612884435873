"""How work goes out: a command, a local run, a call, each with its row and its timer."""

from datetime import timedelta

import orjson

from eventbus.codec import plan_of
from eventbus.event import Reply
from eventbus.saga.decision import LocalRun, Send
from eventbus.saga.definition import PATIENT, StepSpec, effect_of
from eventbus.saga.draft import Draft, phase_timer
from eventbus.saga.instance import text_of
from eventbus.saga.step_log import annotation, changed, note_of, noted
from eventbus.storage.sagas import CallRequest, StepRow

HOURLY = timedelta(hours=1)  # what is stuck and may still be answered


def start(draft: Draft, spec: StepSpec, row_note: bytes | None = None) -> None:
    """Begin a step: its place in the log is the order of starting."""
    forwards = draft.log.forwards
    occurrence = sum(row.name == spec.name for row in forwards)
    row = StepRow(
        seq=len(forwards),
        phase="forward",
        name=spec.name,
        occurrence=occurrence,
        kind=spec.kind,
        effect_id=effect_of(draft.before.saga_id, spec.name, occurrence, "forward"),
        status="dispatched",
        error=row_note,
    )
    if spec.kind == "wait":
        wait(draft, row)
    else:
        forward(draft, row)


def wait(draft: Draft, row: StepRow) -> None:
    """Wait, for the first time or anew; an event that came too early is offered again."""
    draft.log.put(changed(row, status="dispatched"))
    draft.drain = True
    spec = draft.definition.flow.spec(row)
    limit = spec.delay or spec.timeout
    if limit is not None:
        draft.arm(phase_timer("forward", row.seq), limit)


def skip(draft: Draft, spec: StepSpec) -> None:
    """A step whose condition does not hold."""
    row = StepRow(
        seq=len(draft.log.forwards),
        phase="forward",
        name=spec.name,
        kind=spec.kind,
        effect_id=effect_of(draft.before.saga_id, spec.name, 0, "forward"),
        status="skipped",
    )
    draft.log.put(noted(row, why="its condition does not hold"))


def forward(draft: Draft, row: StepRow) -> None:
    """Send a forward step, for the first time or again."""
    flow = draft.definition.flow
    attempt = row.attempt + 1
    match row.kind:
        case "command":
            since = note_of(row).since or text_of(draft.now)
            row = changed(row, attempt=attempt, error=annotation(row, since=since))
            spec = flow.spec(row)
            wait = _patience(draft, spec, attempt)
            draft.commands.append(
                Send(
                    command=flow.command(draft, row),
                    step=row.name,
                    phase="forward",
                    effect_id=row.effect_id,
                    since=since,
                    expires=None if wait is None else text_of(draft.now + wait),
                )
            )
            if wait is not None:
                draft.arm(phase_timer("forward", row.seq), wait)
        case "local":
            row = changed(row, attempt=attempt)
            draft.local_runs.append(_local(draft, row))
        case _:
            row = changed(row, attempt=attempt, error=annotation(row, working=True))
            draft.calls.append(_call(draft, row, None))
    draft.log.put(row)


def ask(draft: Draft, row: StepRow) -> None:
    """Ask what became of a step: the participant answers once and for ever.

    Of a call nobody can be asked: it is executed again under its effect id, unless a worker has it.
    """
    note = note_of(row)
    draft.disarm(phase_timer("forward", row.seq))
    row = noted(changed(row, status="unknown"), asked=note.asked + 1)
    if row.kind == "call":
        if not note.working:
            row = noted(row, working=True)
            draft.calls.append(_call(draft, row, None))
    else:
        draft.commands.append(
            Send(
                command=draft.definition.flow.command(draft, row),
                step=row.name,
                phase="resolve",
                effect_id=effect_of(draft.before.saga_id, row.name, row.occurrence, "resolve"),
                target=row.effect_id,
                since=note.since or text_of(draft.now),
            )
        )
        draft.arm(phase_timer("resolve", row.seq), PATIENT.wait(note.asked + 1))
    draft.log.put(row)


def undo(draft: Draft, row: StepRow) -> None:
    """Send the undo of a step, first or again, with the reply as far as it is known."""
    done = draft.log.forward(row.seq)
    reply = known_reply(draft, done)
    row = changed(row, attempt=row.attempt + 1)
    match row.kind:
        case "command":
            draft.commands.append(
                Send(
                    command=draft.definition.flow.undo(draft, done, reply),
                    step=row.name,
                    phase="undo",
                    effect_id=row.effect_id,
                    target=done.effect_id,
                    since=note_of(done).since or text_of(draft.now),
                )
            )
            draft.arm(phase_timer("undo", row.seq), PATIENT.wait(row.attempt))
        case "local":
            draft.local_runs.append(_local(draft, row))
        case _:
            row = noted(row, working=True)
            draft.calls.append(_call(draft, row, reply))
    draft.log.put(row)


def known_reply(draft: Draft, row: StepRow) -> Reply | None:
    """What was answered, if it was and had a body."""
    cls = draft.definition.flow.spec(row).replies
    if row.reply is None or cls is None or row.status not in {"succeeded", "skipped"}:
        return None
    reply = plan_of(cls).read(row.reply)
    return reply if isinstance(reply, Reply) else None


def _patience(draft: Draft, spec: StepSpec, attempt: int) -> timedelta | None:
    """After the pivot it is tried as an undo is; before it, the last attempt has the timeout."""
    if passed_pivot(draft):
        return max(PATIENT.wait(attempt), spec.timeout or PATIENT.first)
    if attempt < spec.resend.attempts:
        wait = spec.resend.wait(attempt)
        return wait if spec.timeout is None else min(wait, spec.timeout)
    return spec.timeout


def passed_pivot(draft: Draft) -> bool:
    """Whether the saga only goes forward."""
    definition = draft.definition
    if definition.steps and not definition.has_pivot:
        return False
    spec = definition.flow.spec
    return any(
        row.status in {"succeeded", "skipped"} and spec(row).pivot for row in draft.log.forwards
    )


def _local(draft: Draft, row: StepRow) -> LocalRun:
    data = draft.state.model_dump_json().encode()
    return LocalRun(effect_id=row.effect_id, step=row.name, phase=row.phase, data=data)


def _call(draft: Draft, row: StepRow, reply: Reply | None) -> CallRequest:
    plan = None if reply is None else plan_of(type(reply))
    packed = {
        "version": draft.definition.version,
        "state": draft.state.model_dump_json(),
        "reply": None if plan is None else plan.write(reply).decode(),
    }
    return CallRequest(
        effect_id=row.effect_id,
        seq=row.seq,
        phase=row.phase,
        step=row.name,
        input=orjson.dumps(packed),
    )
