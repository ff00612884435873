"""Attributes of a message: what its flow hands on, what the caller may add."""

import re
from collections.abc import Mapping

from eventbus.errors import LimitError
from eventbus.message import Message

MAX_HEADERS, MAX_HEADER_BYTES = 64, 8 << 10
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


def inherit(attributes: dict[str, str], cause: Message) -> None:
    """What a message takes from the one that is being handled: its flow and tenant."""
    attributes["causationid"] = cause.id
    attributes["correlationid"] = cause.headers.get("correlationid", cause.id)
    tenant = cause.headers.get("tenant")
    if tenant is not None:
        attributes["tenant"] = tenant


def add_headers(attributes: dict[str, str], headers: Mapping[str, str]) -> None:
    """Add the caller's.

    Raises:
        LimitError: EB3002, one of them is not allowed, or there are too many.
    """
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
