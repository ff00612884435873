"""Typed messages and dicts to bytes: what every message carries."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import orjson

from eventbus.codec.headers import add_headers, inherit
from eventbus.codec.plan import Plan, plan_of, written
from eventbus.codec.registry import Registry
from eventbus.errors import LimitError, WiringError
from eventbus.event import TypedMessage
from eventbus.message import Message, new_id
from eventbus.personal import Sealing
from eventbus.sealing import Key, Subject


class Encoder:
    """Gives a message everything it carries: id, time, key, flow. One per bus."""

    def __init__(self, source: str, *, max_body: int, registry: Registry | None = None) -> None:
        self.source = source
        self.max_body = max_body
        self._registry = registry  # with strict=True: what may be published

    def typed(
        self,
        what: TypedMessage,
        headers: Mapping[str, str],
        cause: Message | None,
        tenant: str = "",
        keys: Mapping[Subject, Key] | None = None,
    ) -> Message:
        """Encode a typed message, once.

        Args:
            what: the message.
            headers: further attributes.
            cause: what is being handled: its flow and tenant are inherited.
            tenant: of a flow that begins here; with a cause: not asked.
            keys: of the subjects of its personal fields.

        Raises:
            WiringError: EB1201, EB1202; EB1211 under strict: the bus does not know the class.
            LimitError: EB3001, the body is too large; EB3002, a header is not allowed.
            PersonalDataError: EB3117, EB3118, personal fields cannot be sealed.
        """
        plan: Plan = type(what).__dict__.get("__plan__") or plan_of(type(what))
        wire = plan.wire
        if self._registry is not None and wire.type not in self._registry:
            raise _unregistered(wire.type)
        key = None if wire.key is None else _text(getattr(what, wire.key))
        if plan.personal:
            whose = tenant_of(headers, cause, tenant)
            payload = written(plan, what, Sealing(keys or {}, whose))
        else:
            payload = plan.write(what)
        return self._message(
            wire.type, wire.topic, payload, key, headers, cause, plan.schema, tenant
        )

    def untyped(
        self,
        type: str,
        data: Mapping[str, Any],
        key: str | None,
        headers: Mapping[str, str],
        cause: Message | None,
        tenant: str = "",
    ) -> Message:
        """Encode a dict under a name; the topic is the part before the first dot.

        Raises:
            WiringError: EB1210, the name has no dot.
            LimitError: as `typed`; also EB3004, the data are no JSON.
        """
        topic, dot, fact = type.partition(".")
        if not (topic and dot and fact) or "*" in type:
            raise WiringError(
                "EB1210",
                f"{type!r} is no message name",
                where="publish of an untyped message",
                why="a name reads topic.fact",
                next='name it like "user.created"',
            )
        try:
            payload = orjson.dumps(data)
        except TypeError as error:
            raise LimitError(
                "EB3004",
                f"the data of {type!r} cannot be written as JSON",
                where="publish of an untyped message",
                why=str(error),
                next="hand over text, numbers, lists and dicts, or declare an event class",
            ) from None
        return self._message(type, topic, payload, key, headers, cause, None, tenant)

    def _message(
        self,
        type: str,
        topic: str,
        payload: bytes,
        key: str | None,
        headers: Mapping[str, str],
        cause: Message | None,
        schema: str | None,
        beginning: str,
    ) -> Message:
        if len(payload) > self.max_body:
            raise LimitError(
                "EB3001",
                f"{type!r} has a body of {len(payload):,} bytes",
                where=f"publish to topic {topic}",
                why=f"at most {self.max_body:,} bytes travel",
                next="store the data elsewhere and publish a reference (claim check)",
            )
        message_id = new_id()
        attributes: dict[str, str] = {"time": _now()}
        if schema is not None:
            attributes["dataschema"] = schema
        if cause is None:
            attributes["correlationid"] = message_id
            if beginning:
                add_headers(attributes, {"tenant": beginning})
        else:
            inherit(attributes, cause)
        if headers:
            add_headers(attributes, headers)
        tenant = attributes.get("tenant")
        if tenant is not None and key is not None:
            key = f"{tenant}/{key}"
        return Message(
            id=message_id,
            type=type,
            source=self.source,
            topic=topic,
            payload=payload,
            key=key,
            headers=attributes,
        )


def tenant_of(headers: Mapping[str, str], cause: Message | None, beginning: str) -> str:
    """Whose flow a message will belong to."""
    if cause is not None:
        return cause.tenant
    return headers.get("tenant", beginning)


def _unregistered(type: str) -> WiringError:
    return WiringError(
        "EB1211",
        f"the bus does not know {type!r}",
        where="publish under strict=True",
        why="with strict=True only classes that were handed to the bus are published",
        next="hand the class's module to the bus",
    )


def _text(key: object) -> str | None:
    if key is None or (isinstance(key, str) and not isinstance(key, Enum)):
        return key
    return str(key.value if isinstance(key, Enum) else key)


_second = -1
_prefix = ""


def _now() -> str:
    """RFC 3339, UTC, microseconds; the text of a second is kept."""
    global _second, _prefix  # noqa: PLW0603 - a cache of one value, 1 µs saved on each message
    nanoseconds = time.time_ns()
    second, rest = divmod(nanoseconds, 1_000_000_000)
    if second != _second:
        _second = second
        _prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    return f"{_prefix}{rest // 1000:06d}Z"
