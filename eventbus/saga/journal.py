"""The journal: one entry per transition, enough to make it again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from eventbus.codec import plan_of
from eventbus.event import Event, Reply, TypedMessage
from eventbus.saga.input import (
    CallDone,
    GaveUp,
    Input,
    LocalDone,
    Received,
    Replied,
    Started,
    TimerFired,
    Verb,
)
from eventbus.saga.instance import Instance, text_of
from eventbus.storage.sagas import JournalEntry, Status

Messages = Mapping[str, type[TypedMessage]]
ReplyOf = Callable[[UUID], Reply | None]

GAVE_UP = "gave-up"  # the kind of an entry


@dataclass(frozen=True, slots=True)
class Recorded:
    """An input as the journal has it."""

    input: Input
    now: datetime
    ignored: str | None


def entry(
    saga: Instance, to: Status, input: Input, now: datetime, ignored: str | None
) -> JournalEntry:
    """What is written about one input; the engine adds the name of its worker."""
    kind, input_id, said = _said(input)
    detail: dict[str, Any] = {"now": text_of(now), "input": said}
    if ignored is not None:
        detail["ignored"] = ignored
    return JournalEntry(
        version=saga.version + 1,
        input_kind=kind,
        input_id=input_id,
        from_status=saga.status if saga.version else None,
        to_status=to,
        detail=orjson.dumps(detail),
        actor=(input.actor or None) if isinstance(input, Verb) else None,
        worker="",
    )


def recorded(entry: JournalEntry, messages: Messages, reply_of: ReplyOf) -> Recorded:
    """The input of an entry.

    Args:
        entry: as it stands in the journal.
        messages: the classes of the definition, by wire type.
        reply_of: a reply's body stays in the step log: that of an effect, if it was recorded.
    """
    detail = orjson.loads(entry.detail)
    now = datetime.fromisoformat(detail["now"])
    said: dict[str, Any] = detail["input"]
    return Recorded(_heard(entry, said, messages, reply_of), now, detail.get("ignored"))


def _said(input: Input) -> tuple[str, str | None, dict[str, Any]]:
    match input:
        case Started(event, message_id):
            return "started", message_id, _event(event)
        case Received(event, message_id):
            return "received", message_id, _event(event)
        case Replied(effect_id, outcome, reply, message_id):
            return "replied", message_id, _answer(effect_id, outcome, reply)
        case TimerFired(name, epoch):
            return "timer", name, {"epoch": epoch}
        case LocalDone(effect_id, outcome, data, reply):
            state = None if data is None else data.decode()
            return "local", str(effect_id), {**_answer(effect_id, outcome, reply), "data": state}
        case CallDone(effect_id, fence, outcome, reply, why):
            said = {**_answer(effect_id, outcome, reply), "fence": fence, "why": why}
            return "call", str(effect_id), said
        case Verb(name, args, actor, reason):
            return "verb", name, {"args": dict(args), "actor": actor, "reason": reason}
        case _:
            return GAVE_UP, input.message_id, {"why": input.why}


def _event(event: Event) -> dict[str, Any]:
    plan = plan_of(type(event))
    return {"type": plan.wire.type, "body": plan.write(event).decode()}


def _answer(effect_id: UUID, outcome: str, reply: Reply | None) -> dict[str, Any]:
    name = None if reply is None else plan_of(type(reply)).wire.type
    return {"effect": str(effect_id), "outcome": outcome, "reply": name}


def _heard(
    entry: JournalEntry, said: dict[str, Any], messages: Messages, reply_of: ReplyOf
) -> Input:
    kind, input_id = entry.input_kind, entry.input_id
    if kind in {"started", "received"}:
        body = said["body"].encode()
        event = plan_of(messages[said["type"]]).read(body)
        assert isinstance(event, Event)  # noqa: S101 - only events are written under these kinds
        return Started(event, input_id) if kind == "started" else Received(event, input_id)
    if kind == "timer":
        return TimerFired(str(input_id), said["epoch"])
    if kind == "verb":
        return Verb(str(input_id), said["args"], said["actor"], said["reason"])
    if kind == GAVE_UP:
        return GaveUp(str(input_id), said["why"])
    effect_id = UUID(said["effect"])
    reply = None if said["reply"] is None else reply_of(effect_id)
    if kind == "replied":
        return Replied(effect_id, said["outcome"], reply, input_id)
    if kind == "local":
        data = None if said["data"] is None else said["data"].encode()
        return LocalDone(effect_id, said["outcome"], data, reply)
    return CallDone(effect_id, said["fence"], said["outcome"], reply, said["why"])
