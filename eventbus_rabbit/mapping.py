"""`Message` <-> AMQP: CloudEvents 1.0, binary mode, headers `ce-<name>` (B2)."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import blake2s
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from types import MappingProxyType

from pamqp.commands import Basic, Queue

from eventbus.message import Message, new_id
from eventbus.structured import is_structured, unfold
from eventbus_rabbit.arrival import Arrival

JSON = "application/json"
NATIVE = "native:"
NOT_OURS = "x-delivery-count"  # the broker counts in the message itself: it stays the same message
SHORT_BYTES = 255  # of an AMQP short string
DEAD = ".dlq"

_SIZE, _CLASS, _FLAGS, _TIME = Struct(">I"), Struct(">HxxQ"), Struct(">H"), Struct(">Q")
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_CORRELATION_ID, _MESSAGE_ID, _TIMESTAMP, _TYPE = 1 << 10, 1 << 7, 1 << 6, 1 << 5
_BASIC = Basic.frame_id
_SPECVERSION = b"\x0ece-specversionS\x00\x00\x00\x031.0"


def address_of(message: Message) -> tuple[str, str]:
    """Exchange and routing key; a dead letter goes straight to its queue.

    Raises:
        ValueError: AMQP does not take such a name.
    """
    return _address(message.topic, message.type)


@lru_cache(maxsize=4096)
def _address(topic: str, name: str) -> tuple[str, str]:
    exchange, routing_key = ("", topic) if topic.endswith(DEAD) else (topic, name)
    Basic.Publish(exchange=exchange, routing_key=routing_key)  # checks the exchange
    if len(routing_key.encode()) > SHORT_BYTES:
        raise ValueError(f"a routing key has at most {SHORT_BYTES} bytes: {routing_key[:40]!r}…")
    if not exchange:
        Queue.Declare(queue=routing_key)  # checks the queue
    return exchange, routing_key


def message_id_of(message: Message) -> str:
    """The AMQP `message_id`: the id, or its identity where a foreign one is too long or empty."""
    fits = 0 < len(message.id.encode()) <= SHORT_BYTES
    return message.id if fits else str(message.identity)


def content_header(message: Message) -> bytes:
    """The payload of an AMQP content header frame: size, properties, attributes as headers.

    By hand, for the client's encoder takes three times as long (measured); a test reads it back
    with the client.

    Raises:
        ValueError: a header's name is longer than AMQP allows, or a text cannot be encoded.
    """
    headers = message.headers
    table = [
        _SPECVERSION,
        _name("ce-id"),
        _text(message.id),
        _name("ce-type"),
        _text(message.type),
        _name("ce-source"),
        _text(message.source),
    ]
    if message.key is not None:
        table += (_name("ce-partitionkey"), _text(message.key))
    flags = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID
    content_type, correlation, timestamp = JSON, b"", b""
    for name, value in headers.items():
        if name == "datacontenttype":
            content_type = value
        elif name.startswith(NATIVE):
            table += (_name(name[len(NATIVE) :]), _text(value))
        else:
            table += (_name(f"ce-{name}"), _text(value))
            if name == "time":
                timestamp = _seconds(value[:19], value[19:])
            elif name == "correlationid" and len(value) <= SHORT_BYTES // 4:
                correlation = _short(value)
    joined = b"".join(table)
    parts = [_short(content_type), _SIZE.pack(len(joined)), joined, b"\x02"]
    if correlation:
        flags |= _CORRELATION_ID
        parts.append(correlation)
    parts.append(_short(message_id_of(message)))
    if timestamp:
        flags |= _TIMESTAMP
        parts.append(timestamp)
    if len(message.type) <= SHORT_BYTES // 4:
        flags |= _TYPE
        parts.append(_short(message.type))
    return b"".join((_CLASS.pack(_BASIC, len(message.payload)), _FLAGS.pack(flags), *parts))


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    """Of a header whose value is a long string."""
    return _short(name) + b"S"


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _SIZE.pack(len(encoded)) + encoded


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > SHORT_BYTES:
        raise ValueError(f"{text[:40]!r}… has more than {SHORT_BYTES} bytes")
    return bytes((len(encoded),)) + encoded


@lru_cache(maxsize=64)
def _seconds(until_seconds: str, rest: str) -> bytes:
    """RFC 3339 -> seconds; empty if it is none: the property is a copy for tools of the broker."""
    zone = "+00:00" if rest.endswith("Z") else rest[-6:]
    try:
        at = datetime.fromisoformat(f"{until_seconds}{zone}")
        return _TIME.pack(int(at.timestamp())) if at.tzinfo is not None else b""
    except (ValueError, OverflowError, StructError):  # no date, or one before 1970
        return b""


def read(
    arrival: Arrival, foreign: Mapping[str, str] = MappingProxyType({})
) -> tuple[Message, str | None]:
    """The message, and why its envelope cannot be read if so; never raises.

    Of an unreadable one as much is kept as there is: body, key, headers as `native:<name>`.

    Args:
        arrival: as it came.
        foreign: exchange -> type of what comes from there without any CloudEvents header.
    """
    properties = arrival.properties
    raw = properties.headers or {}
    attributes: dict[str, str] = {}
    headers: dict[str, str] = {}
    for header, value in raw.items():
        text = value if isinstance(value, str) else _normal(value)
        if header.startswith("ce-"):
            attributes[header[3:]] = text
        elif header[:3].lower() == "ce-":
            attributes[header[3:].lower()] = text
        elif header != NOT_OURS:
            headers[NATIVE + header] = text
    topic = arrival.exchange or arrival.routing_key
    content_type = properties.content_type or JSON
    body, broken = arrival.body, None
    if content_type != JSON:
        if is_structured(content_type, topic):
            attributes, body, broken = _unfolded(content_type, body)
        else:
            attributes.setdefault("datacontenttype", content_type)
    version = attributes.pop("specversion", None)
    message_id, name = attributes.pop("id", ""), attributes.pop("type", "")
    source = attributes.pop("source", "")
    key = attributes.pop("partitionkey", None)
    wrong = None
    if version is None or not version.startswith("1.") or not (message_id and name and source):
        declared = foreign.get(topic)
        if declared is not None and not broken and not _is_ours(raw):
            message_id = properties.message_id or new_id()  # without one a repeat is not known
            name, source = declared, f"/rabbit/{topic}"
        else:
            wrong = broken or _what_is_wrong(raw, version, message_id, name, source)
            message_id = message_id or properties.message_id or _digest(arrival)
            name = name or properties.message_type or arrival.routing_key
    message = Message(
        id=message_id,
        type=name,
        source=source,
        topic=topic,
        payload=body,
        key=key,
        headers={**attributes, **headers},
    )
    return message, wrong


def _unfolded(content_type: str, body: bytes) -> tuple[dict[str, str], bytes, str | None]:
    """Of a broken envelope the whole, and why: its headers do not count, the body is the truth."""
    try:
        return *unfold(content_type, body), None
    except ValueError as broken:
        return {"datacontenttype": content_type}, body, str(broken)


def _what_is_wrong(
    raw: Mapping[str, object],
    version: str | None,
    id: str,
    type: str,
    source: str,
) -> str:
    if not _is_ours(raw):
        return "no CloudEvents headers: nothing begins with ce-"
    if version is not None and not version.startswith("1."):
        return f"specversion {version[:20]!r} is not 1.x"
    attributes = {"specversion": version, "id": id, "type": type, "source": source}
    missing = [f"ce-{name}" for name, value in attributes.items() if not value]
    return f"missing or empty: {', '.join(missing)}"


def _is_ours(raw: Mapping[str, object]) -> bool:
    """Whether it says to be a CloudEvent."""
    return any(name.lower().startswith("ce-") for name in raw)


def _normal(value: object) -> str:
    """Header values of others: bytes, numbers, dates, the nested ones of dead letters."""
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return "" if value is None else str(value)


def _digest(arrival: Arrival) -> str:
    """An id for what has none: the same whenever it comes again."""
    seen = blake2s(arrival.body, digest_size=16)
    seen.update(repr(sorted((arrival.properties.headers or {}).items(), key=str)).encode())
    return f"unreadable:{seen.hexdigest()}"


_wildcard = re.compile(r"[^.*#]+\.\*")


def binding_key(type: str) -> str:
    """Of a topic exchange: `user.*` takes every type whose first part is `user`."""
    return f"{type[:-2]}.#" if _wildcard.fullmatch(type) else type


def is_among(type: str, patterns: tuple[str, ...]) -> bool:
    """Whether a type is one of them, or falls under `user.*`."""
    return any(type == each or f"{type.partition('.')[0]}.*" == each for each in patterns)
