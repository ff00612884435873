"""A message on its way to the handlers of a group, and what is wrong with it before any handler."""

from dataclasses import dataclass
from uuid import UUID

from eventbus.errors import CodecError, DecodeError, LimitError
from eventbus.handler import Group
from eventbus.message import Message, own_key
from eventbus.personal import Opening
from eventbus.pubsub.routes import Route, Routes
from eventbus.storage.parking import Parked
from eventbus.transport import Delivery

RAW_BYTES = 4096  # of an oversized body: what is kept for the operator


@dataclass(slots=True)
class Call:
    """A message, what orders it, who wants it."""

    message: Message
    key: str  # what the group orders by
    identity: UUID
    route: Route
    origin: str
    wrong: CodecError | None  # found before any handler: it is quarantined
    attempt: int = 1
    delivery: Delivery | None = None
    opening: Opening | None = None  # with what its personal fields were read

    @property
    def ours(self) -> bool:
        """Whether the group must do something about it: handle it, or quarantine it."""
        return bool(self.route.handlers) or self.wrong is not None

    @property
    def lost(self) -> bool:
        """Whether somebody else may have it by now."""
        return self.delivery is not None and self.delivery.lost


class Calls:
    """Makes the calls of a group."""

    def __init__(self, routes: Routes, *, scheme: str, max_body: int, filters_types: bool) -> None:
        self.group: Group = routes.group
        self._routes = routes
        self._scheme = scheme
        self._max_body = max_body
        self._filters_types = filters_types

    def delivered(self, delivery: Delivery) -> Call:
        """The call of a delivery."""
        message = delivery.message
        route = self._routes.for_message(message)
        return Call(
            message=message,
            key=key_of(message, self.group),
            identity=message.identity,
            route=route,
            origin=f"{self._scheme}:{delivery.partition}/{delivery.offset}",
            wrong=self._wrong(message, route, delivery.malformed, asked_for=self._filters_types),
            delivery=delivery,
        )

    def parked(self, parked: Parked, attempt: int) -> Call:
        """The call of a parked message."""
        message = parked.message
        route = self._routes.for_message(message)
        return Call(
            message=message,
            key=parked.key,
            identity=message.identity,
            route=route,
            origin=parked.origin,
            wrong=self._wrong(message, route, None, asked_for=True),
            attempt=attempt,
        )

    def _wrong(
        self, message: Message, route: Route, malformed: str | None, *, asked_for: bool
    ) -> CodecError | None:
        if malformed is not None:
            return unreadable(message, malformed)
        if len(message.payload) > self._max_body:
            return oversized(message, self._max_body)
        if not route.handlers and asked_for:
            return _not_subscribed(message, self.group)
        return None


def key_of(message: Message, group: Group) -> str:
    """What the group orders by; a key of its own for what has no order."""
    if message.key is None or group.order == "none":
        return own_key(message)
    return message.key


def behind(call: Call) -> Parked:
    """A message that only queues behind its key."""
    return Parked(message=call.message, key=call.key, attempts=0, delay=None, origin=call.origin)


def cut(message: Message) -> Message:
    """The message with no more of its body than an operator needs to know it by."""
    if len(message.payload) <= RAW_BYTES:
        return message
    return Message(
        id=message.id,
        type=message.type,
        source=message.source,
        topic=message.topic,
        payload=message.payload[:RAW_BYTES],
        key=message.key,
        headers=message.headers,
    )


def unreadable(message: Message, why: str) -> DecodeError:
    """EB3104: the adapter could not read the envelope."""
    return DecodeError(
        "EB3104",
        "the envelope cannot be read",
        where=f"topic {message.topic}",
        why=why,
        next="it is quarantined as it came, nothing is lost: look at it as a dead letter",
    )


def oversized(message: Message, max_body: int) -> LimitError:
    """EB3001: larger than anything we send."""
    return LimitError(
        "EB3001",
        f"{message.type!r} has a body of {len(message.payload):,} bytes",
        where=f"topic {message.topic}",
        why=f"at most {max_body:,} bytes are read",
        next=f"its first {RAW_BYTES:,} bytes are quarantined; the origin says where it stands",
    )


def _not_subscribed(message: Message, group: Group) -> DecodeError:
    return DecodeError(
        "EB3103",
        f"no handler of group {group.name!r} wants {message.type!r} any more",
        where=f"topic {message.topic}",
        why="the group once asked for it",
        next="deploy a handler for it and redrive, or discard it",
    )
