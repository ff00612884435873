"""Typed messages to bytes and back: the only room that knows both (B1, B2)."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from eventbus.errors import DecodeError, LimitError, UnknownTypeError, WiringError
from eventbus.event import TypedMessage, Untyped, Wire, upcasters
from eventbus.message import Message, new_id
from eventbus.personal import (
    Collecting,
    Marked,
    Opening,
    Reading,
    Sealing,
    Writing,
    marked_in,
    opened_in,
)
from eventbus.sealing import Key, KeySource, Subject

MAX_HEADERS, MAX_HEADER_BYTES, MAX_DEPTH = 64, 8 << 10, 64
_SCHEMA = "urn:eventbus:schema:"
_HEADER = re.compile(r"[a-z0-9]{1,20}")
_OURS = frozenset(
    [
        "id",
        "source",
        "specversion",
        "type",
        "time",
        "datacontenttype",
        "dataschema",
        "subject",
        "sequence",
        "partitionkey",
        "correlationid",
        "causationid",
    ]
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is worked out once per class: how it is written, read and named."""

    cls: type[TypedMessage]
    wire: Wire
    schema: str
    write: Callable[..., bytes]
    read: Callable[..., TypedMessage]
    upcasters: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
    personal: bool  # whether a field of it, or of what it is made of, is sealed


class Registry:
    """The message classes that reading knows, by wire type; closed once the bus is built (B1)."""

    def __init__(self, classes: Iterable[type[TypedMessage]] = ()) -> None:
        self.keys: KeySource | None = None  # of personal data; without them they stay sealed
        self._plans: dict[str, _Plan] = {}
        self.personal: set[str] = set()  # the types that have personal fields
        for cls in classes:
            self.add(cls)

    def add(self, cls: type[TypedMessage]) -> None:
        """Know a class; one without a wire type is passed over.

        Raises:
            WiringError: EB1202, `key=` names no field; EB1203, another class claims the type;
                EB1223, EB1224, EB1225, a personal field cannot be sealed as it is declared.
        """
        if cls.__wire__ is None:
            return
        plan = plan_of(cls)
        if plan.personal:
            self.personal.add(plan.wire.type)
        known = self._plans.setdefault(plan.wire.type, plan)
        if known.cls is not cls:
            raise WiringError(
                "EB1203",
                f"two message classes claim the type {plan.wire.type!r}",
                where=f"{_path(known.cls)}, {_path(cls)}",
                why="a type name on the wire must mean one class",
                next="rename one, or delete it and add an upcaster",
            )

    def get(self, type: str) -> type[TypedMessage] | None:
        """The class of a wire type, if it is known."""
        plan = self._plans.get(type)
        return None if plan is None else plan.cls

    def __contains__(self, type: str) -> bool:
        return type in self._plans

    @property
    def classes(self) -> tuple[type[TypedMessage], ...]:
        """All known classes, in the order in which they became known."""
        return tuple(plan.cls for plan in self._plans.values())

    async def openings(
        self, messages: Sequence[Message], tx: object | None = None
    ) -> Sequence[Opening | None]:
        """With what each is to be decoded; keys are read once for all, where any are needed.

        Args:
            messages: of any types.
            tx: the transaction that the caller holds, if it holds one.
        """
        if self.keys is None or not self.personal:
            return (None,) * len(messages)
        sealed = [one.payload for one in messages if one.type in self.personal]
        if not sealed:
            return (None,) * len(messages)
        keys = await self.keys.opening(sealed, tx)
        return [
            Opening(keys, one.tenant) if one.type in self.personal else None for one in messages
        ]

    def decode(self, message: Message, opening: Opening | None = None) -> TypedMessage:
        """The typed message of the current version; older ones go through the upcasters.

        Args:
            message: of a known type.
            opening: what `openings` answered; without it personal fields are `Sealed`.

        Raises:
            UnknownTypeError: EB3103, no class of this registry has the type.
            DecodeError: EB3101, no way leads from its version; EB3102, it does not validate.
            PersonalDataError: EB3114, EB3115, what is sealed cannot be opened.
        """
        plan = self._plans.get(message.type)
        if plan is None:
            raise UnknownTypeError(
                "EB3103",
                f"unknown type {message.type!r}",
                where=_where(message),
                why="no class that was handed to the bus has it; types are never guessed",
                next="hand the class or its module to the bus, then redrive",
            )
        schema = message.headers.get("dataschema")
        try:
            if schema == plan.schema or (version := _version_of(schema)) == plan.wire.version:
                return plan.read(message.payload, context=opening)
            return plan.read(_upcasted(plan, version, message, opening), context=opening)
        except ValidationError as error:
            raise _does_not_validate(message, error) from None

    def current(self, type: str, version: int, payload: bytes) -> TypedMessage | None:
        """The typed message of a body of the current version, without its headers.

        None: ask `decode`, which knows the older ones and what is sealed, or says what is wrong.
        """
        plan = self._plans.get(type)
        if plan is None or plan.wire.version != version or type in self.personal:
            return None
        try:
            return plan.read(payload)
        except ValidationError:
            return None

    def validate(self, message: Message) -> None:
        """Raise what `decode` would raise; of a type that nobody knows only whether it is JSON."""
        if message.type in self:
            self.decode(message)
        else:
            decode_untyped(message)


def plan_of(cls: type[TypedMessage]) -> _Plan:
    """How a class goes over the wire; worked out once.

    Raises:
        WiringError: EB1201, the class has no wire type; EB1202, `key=` names no field.
    """
    plan: _Plan | None = cls.__dict__.get("__plan__")
    if plan is None:
        plan = _plan(cls)
        cls.__plan__ = plan  # type: ignore[attr-defined]  # a class attribute that pydantic does not see
    return plan


def _plan(cls: type[TypedMessage]) -> _Plan:
    wire = cls.__wire__
    if wire is None:
        raise WiringError(
            "EB1201",
            f"{cls.__qualname__} has no wire type",
            where=_path(cls),
            why="a class without type= is a base class and cannot travel",
            next=f'class {cls.__name__}(…, type="context.fact")',
        )
    if wire.key is not None and wire.key not in cls.model_fields:
        raise WiringError(
            "EB1202",
            f"key={wire.key!r} of {wire.type!r} names no field",
            where=_path(cls),
            why=f"its fields are: {', '.join(cls.model_fields) or 'none'}",
            next="name a field, or leave key= out if order does not matter",
        )
    adapter = TypeAdapter(cls)
    serializer = adapter.serializer
    marked = list(marked_in(adapter.core_schema))
    for each in marked:
        _check_mark(each, wire)
    return _Plan(
        cls=cls,
        wire=wire,
        schema=f"{_SCHEMA}{wire.type}:{wire.version}",
        write=serializer.to_json,
        read=adapter.validator.validate_json,
        upcasters=upcasters(cls),
        personal=bool(marked),
    )


def _check_mark(marked: Marked, wire: Wire) -> None:
    where = f"{_path(marked.owner)}.{marked.name}"
    if marked.subject not in marked.before:
        raise WiringError(
            "EB1223",
            f"Personal(subject={marked.subject!r}) names no field before {marked.name!r}",
            where=where,
            why="the subject says under whose key it is sealed, and is read first",
            next="name a field of the same class, and declare it above the personal one",
        )
    if not marked.may_be_forgotten:
        raise WiringError(
            "EB1224",
            f"personal field {marked.name!r} cannot hold what is left of a forgotten one",
            where=where,
            why="its readers get Forgotten, which is text, and its type takes no text",
            next="make it str, or a union with Forgotten: Annotated[date | Forgotten, Personal(…)]",
        )
    if marked.name == wire.key and _is_of(marked.owner, wire):
        raise WiringError(
            "EB1225",
            f"key={wire.key!r} of {wire.type!r} is a personal field",
            where=where,
            why="keys travel in the clear, and stand in inbox, outbox and logs",
            next="take an id that says nothing about the person",
        )


def _is_of(owner: type, wire: Wire) -> bool:
    return issubclass(owner, TypedMessage) and owner.__wire__ == wire


def is_personal(what: object) -> bool:
    """Whether it has personal fields: then its keys are needed before it is encoded."""
    return (
        isinstance(what, TypedMessage)
        and what.__wire__ is not None
        and (type(what).__dict__.get("__plan__") or plan_of(type(what))).personal
    )


def subjects_of(what: TypedMessage, tenant: str) -> Mapping[Subject, None]:
    """Whose keys are needed to encode it.

    Raises:
        PersonalDataError: EB3117, a personal field is filled, and its subject is not.
    """
    collecting = Collecting(tenant)
    _written(plan_of(type(what)), what, collecting)
    return collecting.subjects


def personal_texts(whats: Iterable[object]) -> Sequence[str]:
    """Personal data that stand in messages in the clear: what is said of a failure hides them."""
    reading = Reading()
    for what in whats:
        if isinstance(what, TypedMessage) and is_personal(what):
            plan_of(type(what)).write(what, context=reading)
    return reading.texts


def _written(plan: _Plan, what: TypedMessage, context: Writing) -> bytes:
    payload = plan.write(what, context=context)
    if context.problem is not None:
        raise context.problem
    return payload


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
        plan: _Plan = type(what).__dict__.get("__plan__") or plan_of(type(what))
        wire = plan.wire
        if self._registry is not None and wire.type not in self._registry:
            raise _unregistered(wire.type)
        key = None if wire.key is None else _text(getattr(what, wire.key))
        if plan.personal:
            whose = tenant_of(headers, cause, tenant)
            payload = _written(plan, what, Sealing(keys or {}, whose))
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
                _add_headers(attributes, {"tenant": beginning})
        else:
            _inherit(attributes, cause)
        if headers:
            _add_headers(attributes, headers)
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


def decode_untyped(message: Message) -> Untyped:
    """The data of a message as a dict, whatever its type.

    Raises:
        DecodeError: EB3102, no JSON object.
        LimitError: EB3003, nested deeper than 64.
    """
    try:
        data = orjson.loads(message.payload)
    except orjson.JSONDecodeError as error:
        raise _no_object(message, str(error)) from None
    if not isinstance(data, dict):
        raise _no_object(message, f"the body is a JSON {type(data).__name__}, not an object")
    if _depth(data) > MAX_DEPTH:
        raise LimitError(
            "EB3003",
            f"the data of {message.type!r} are nested deeper than {MAX_DEPTH}",
            where=_where(message),
            why="hostile or broken input of this kind exhausts readers",
            next="it is quarantined: look at it with `eventbus dead-letter show`",
        )
    return Untyped(message.type, data)


def own_attributes(message: Message) -> dict[str, str]:
    """All CloudEvents attributes but the data, by bare name (CloudEvents 1.0, binary mode)."""
    attributes = {
        "specversion": "1.0",
        "id": message.id,
        "source": message.source,
        "type": message.type,
        **{name: value for name, value in message.headers.items() if ":" not in name},
    }
    if message.key is not None:
        attributes["partitionkey"] = message.key
    return attributes


def _inherit(attributes: dict[str, str], cause: Message) -> None:
    attributes["causationid"] = cause.id
    attributes["correlationid"] = cause.headers.get("correlationid", cause.id)
    tenant = cause.headers.get("tenant")
    if tenant is not None:
        attributes["tenant"] = tenant


def _add_headers(attributes: dict[str, str], headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        reserved = name in _OURS or name.startswith(("eventbus", "saga"))
        if reserved or not _HEADER.fullmatch(name):
            raise _header(name, "names are 1 to 20 lower-case letters and digits, not ours")
        if not isinstance(value, str) or "\0" in value or not _is_unicode(value):
            raise _header(name, "values are text without NUL and lone surrogates")
        if name == "tenant" and attributes.get("tenant", value) != value:
            raise _header(name, f"the flow belongs to tenant {attributes['tenant']!r}")
        attributes[name] = value
    if len(attributes) > MAX_HEADERS or _size(attributes) > MAX_HEADER_BYTES:
        raise _header("", f"at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES:,} bytes in all")


def _size(attributes: Mapping[str, str]) -> int:
    return sum(len(name) + len(value.encode()) for name, value in attributes.items())


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(name: str, why: str) -> LimitError:
    return LimitError(
        "EB3002",
        f"header {name!r} is not allowed" if name else "too many headers",
        where="headers= of publish or send",
        why=why,
        next="mend the header, or put the value into the event",
    )


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


def _version_of(schema: str | None) -> int:
    if schema is None or not schema.startswith(_SCHEMA):
        return 1
    last = schema.rpartition(":")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 1


def _upcasted(plan: _Plan, version: int, message: Message, opening: Opening | None) -> bytes:
    data: dict[str, Any] = dict(decode_untyped(message).data)
    if opening is not None:
        data = opened_in(data, opening)
    while version < plan.wire.version and version in plan.upcasters:
        try:
            data = plan.upcasters[version](data)
        except Exception as error:  # the author's function meets what it did not expect
            raise _upcaster_failed(message, version, error) from error
        version += 1
    if version != plan.wire.version:
        raise DecodeError(
            "EB3101",
            f"cannot decode {message.type} v{version} (this code knows v{plan.wire.version})",
            where=_where(message),
            why=f"no upcaster leads from v{version}",
            next=f"it is quarantined, nothing is lost: deploy v{version} or an upcaster, redrive",
        )
    return orjson.dumps(data)


def _upcaster_failed(message: Message, version: int, error: Exception) -> DecodeError:
    return DecodeError(
        "EB3102",
        f"the upcaster of {message.type} from v{version} failed: {type(error).__name__}",
        where=_where(message),
        why="the stored body is not what the upcaster expects",
        next="it is quarantined, nothing is lost: mend the upcaster, then redrive",
    )


def _does_not_validate(message: Message, error: ValidationError) -> DecodeError:
    """Paths and rules only: never a value (faults.md, security)."""
    found = [
        f"{'.'.join(str(part) for part in line['loc']) or 'body'}: {line['type']}"
        for line in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return DecodeError(
        "EB3102",
        f"{message.type} does not validate",
        where=_where(message),
        why="; ".join(found[:5]) + ("; …" if len(found) > 5 else ""),
        next="it is quarantined, nothing is lost: mend the class or the message, then redrive",
    )


def _no_object(message: Message, why: str) -> DecodeError:
    return DecodeError(
        "EB3102",
        f"the body of {message.type!r} is no JSON object",
        where=_where(message),
        why=why,
        next="it is quarantined: look at it with `eventbus dead-letter show`",
    )


def _depth(data: object) -> int:
    depth, level = 0, [data]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return depth


def _where(message: Message) -> str:
    return f"topic {message.topic}  key {message.key}  id {message.id}  source {message.source}"


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
