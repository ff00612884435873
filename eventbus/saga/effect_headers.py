"""What a saga's command says of itself: headers, which anybody may have written."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast
from uuid import UUID

from eventbus.errors import DecodeError
from eventbus.message import Message
from eventbus.uuids import uuid_met_again
from eventbus.values import make_quickly

Phase = Literal["forward", "undo", "resolve"]

_PHASES = frozenset({"forward", "undo", "resolve"})
_REPLIES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,190}\.replies")


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectHeaders:
    """Read once, each checked (sagas.md 6)."""

    saga_id: UUID
    step: str
    phase: Phase
    effect_id: UUID  # of this command: what a reply speaks of, unless it answers a resolve
    target: UUID  # of the forward command
    reply_to: str
    since: datetime | None  # first sending of the forward command


make_quickly(EffectHeaders)


def headers_of(message: Message, *, undo: bool) -> EffectHeaders:
    """Read them.

    Raises:
        DecodeError: EB7051, one is missing or cannot be, or the phase is not its handler's.
    """
    told = message.headers
    phase = told.get("sagaphase", "forward")
    if phase not in _PHASES or undo != (phase == "undo"):
        raise _broken(message, f"sagaphase {phase!r} for {'an undo' if undo else 'a command'}")
    reply_to = told.get("sagareplyto", "")
    if not _REPLIES.fullmatch(reply_to):
        raise _broken(message, "sagareplyto is no topic of replies")
    effect_id = _uuid(message, "sagaeffect")
    return EffectHeaders(
        saga_id=_uuid(message, "sagaid"),
        step=told.get("sagastep", ""),
        phase=cast("Phase", phase),
        effect_id=effect_id,
        target=effect_id if phase == "forward" else _uuid(message, "sagatarget"),
        reply_to=reply_to,
        since=_since(message),
    )


def _uuid(message: Message, name: str) -> UUID:
    try:
        return uuid_met_again(message.headers.get(name, ""))
    except ValueError:
        raise _broken(message, f"{name} is no UUID") from None


def _since(message: Message) -> datetime | None:
    told = message.headers.get("sagasince")
    if told is None:
        return None
    try:
        since = datetime.fromisoformat(told)
    except ValueError:
        raise _broken(message, "sagasince is no time") from None
    if since.tzinfo is None:
        raise _broken(message, "sagasince has no time zone")
    return since


def _broken(message: Message, why: str) -> DecodeError:
    return DecodeError(
        "EB7051",
        f"{message.type!r} carries headers that no saga sends",
        where=f"topic {message.topic}, message {message.id}",
        why=why,
        next="it is quarantined, nothing ran: look who sent it",
    )
