"""What a message is to a saga: an event that finds it by a key, an answer, a reminder."""

from dataclasses import dataclass
from uuid import UUID

from eventbus.errors import CodecError, DecodeError, SagaError
from eventbus.event import Event, Reply, TypedMessage
from eventbus.message import Message
from eventbus.saga.course import Course
from eventbus.saga.definition import Route, effect_of, wire_name
from eventbus.saga.family import Family
from eventbus.saga.input import Input, Outcome, Received, Replied
from eventbus.saga.outgoing import KeysAdded, Tools
from eventbus.saga.tenancy import LONGEST_TENANT, with_tenant
from eventbus.storage.sagas import Correlation
from eventbus.uuids import uuid_met_again
from eventbus.values import make_quickly

_OUTCOMES: dict[str, Outcome] = {
    "succeeded": "succeeded",
    "rejected": "rejected",
    "cancelled": "cancelled",
    "undone": "undone",
    "unknown": "unknown",
}
_FORGOTTEN = "eventbus.forgotten"  # a participant cannot tell any more
_BARE = frozenset({"cancelled", "undone", "unknown"})  # no body is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One message, read."""

    message: Message
    saga_id: UUID | None = None  # of an answer or a reminder
    event: Event | None = None
    keys: tuple[tuple[Route, Correlation], ...] = ()  # of an event
    drains: tuple[Correlation, ...] = ()  # of a reminder

    @property
    def start(self) -> Correlation | None:
        """The business key, if the event starts a saga."""
        return next((key for route, key in self.keys if route.starts), None)

    @property
    def missing(self) -> tuple[Route, Correlation]:
        """Whose policy counts if there is no saga."""
        return self.keys[0]


make_quickly(Incoming)


def read(message: Message, family: Family, tools: Tools) -> Incoming:
    """What it is to the saga.

    Raises:
        CodecError: it cannot be read: quarantine it. EB7061, its headers are not of a saga.
        SagaError: EB7062, an event without the key by which it is to find its saga.
    """
    if message.topic == family.replies or "sagaoutcome" in message.headers:
        return _addressed(message, family, tools)
    what = tools.decode(message)
    routes = family.routes.get(type(what), ()) if isinstance(what, Event) else ()
    if not isinstance(what, Event) or not routes:
        return Incoming(message=message)
    return Incoming(message=message, event=what, keys=_keys(message, what, routes, family))


def by_envelope(message: Message, family: Family) -> Incoming:
    """What is known of a message that cannot be read: the saga it names, or whose key it has."""
    try:
        saga_id = _uuid(message, "sagaid")
    except DecodeError:
        saga_id = None
    if saga_id is not None or message.key is None:
        return Incoming(message=message, saga_id=saga_id)
    key = Correlation(family.name, "", message.key)
    routes = [
        route
        for event, found in family.routes.items()
        if wire_name(event) == message.type
        for route in found
        if route.by is None
    ]
    return Incoming(message=message, keys=tuple((route, key) for route in routes[:1]))


def _addressed(message: Message, family: Family, tools: Tools) -> Incoming:
    saga_id = _uuid(message, "sagaid")
    drains: tuple[Correlation, ...] = ()
    if "sagaoutcome" not in message.headers:
        what = tools.decode(message)
        if isinstance(what, KeysAdded):
            named = ((name, with_tenant(message.tenant, value)) for name, value in what.keys)
            drains = tuple(Correlation(family.name, name, value) for name, value in named)
    return Incoming(message=message, saga_id=saga_id, drains=drains)


def _keys(
    message: Message, event: Event, routes: tuple[Route, ...], family: Family
) -> tuple[tuple[Route, Correlation], ...]:
    if len(message.tenant) > LONGEST_TENANT:
        raise _no_key(message, family, f"its tenant has more than {LONGEST_TENANT:,} characters")
    found: dict[Correlation, Route] = {}
    for route in routes:
        value = message.key if route.by is None else _field(message, event, route.by)
        if value is None:
            raise _no_key(message, family, f"it has no {route.by or 'key'}")
        key = Correlation(family.name, route.by or "", value)
        if key not in found or route.starts:
            found[key] = route
    return tuple((route, key) for key, route in found.items())


def _field(message: Message, event: Event, name: str) -> str | None:
    value = getattr(event, name)
    return None if value is None else with_tenant(message.tenant, str(value))


def input_of(message: Message, course: Course, tools: Tools) -> Input:
    """What is fed to the saga; an answer that cannot be read is one without a body.

    Raises:
        CodecError: an event cannot be read.
    """
    outcome = message.headers.get("sagaoutcome")
    if outcome is None:
        what = tools.decode(message)
        if not isinstance(what, Event):
            raise _broken(message, f"{type(what).__name__} is no event")
        return Received(what, message.id)
    effect_id = _uuid(message, "sagaeffect")
    if outcome not in _OUTCOMES:
        raise _broken(message, f"sagaoutcome {outcome!r}")
    reply = None if outcome in _BARE else _reply(message, tools)
    if message.type == _FORGOTTEN:
        effect_id = _question(course, effect_id)
        reply = None
    return Replied(effect_id, _OUTCOMES[outcome], reply, message.id)


def _reply(message: Message, tools: Tools) -> Reply | None:
    """None: an unknown type or a broken body; a step that asks for one takes it for a stray."""
    try:
        what: TypedMessage = tools.decode(message)
    except CodecError:
        return Unreadable()
    return what if isinstance(what, Reply) else Unreadable()


class Unreadable(Reply, type="eventbus.unreadable"):
    """In the place of an answer that cannot be read: it fits no step."""


def _question(course: Course, effect_id: UUID) -> UUID:
    """A participant that forgot a step refuses the question, not the step."""
    for row in course.steps:
        if row.effect_id == effect_id and row.phase == "forward":
            return effect_of(course.saga.saga_id, row.name, row.occurrence, "resolve")
    return effect_id


def _uuid(message: Message, name: str) -> UUID:
    try:
        return uuid_met_again(message.headers.get(name, ""))
    except ValueError:
        raise _broken(message, f"{name} is no UUID") from None


def _broken(message: Message, why: str) -> DecodeError:
    return DecodeError(
        "EB7061",
        f"{message.type!r} is no answer to a saga",
        where=f"topic {message.topic}, message {message.id}",
        why=why,
        next="it is quarantined, nothing happened to any saga: look who sent it",
    )


def _no_key(message: Message, family: Family, why: str) -> SagaError:
    return SagaError(
        "EB7062",
        f"{message.type!r} cannot find its saga {family.name!r}",
        where=f"topic {message.topic}, message {message.id}",
        why=why,
        next="give the event class key=, or the route by= a field that is always there",
    )
