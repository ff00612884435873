"""A CloudEvents 1.0 envelope in the JSON format -> its attributes and its data.

For messages of others: we write binary mode only.
"""

import json
import re
from base64 import b64decode

PREFIX = "application/cloudevents"
DEAD = ".dlq"
MAX_ATTRIBUTES, MAX_BYTES = 64, 8 << 10

_media_type = re.compile(
    r'application/cloudevents\+json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE
)
_json_type = re.compile(r"[^/;\s]+/([^/;\s]+\+)?json\s*(;.*)?", re.IGNORECASE)
_name = re.compile(r"[a-z0-9]+")
_space = re.compile(r"[ \t\r\n]*")
_REQUIRED = ("specversion", "id", "source", "type")


def is_structured(content_type: str, topic: str) -> bool:
    """Whether the body is the envelope.

    Never in a queue of dead letters: what lies there we wrote, the unread envelope as its body.
    """
    return content_type[: len(PREFIX)].lower() == PREFIX and not topic.endswith(DEAD)


def unfold(content_type: str, body: bytes) -> tuple[dict[str, str], bytes]:
    """The attributes under their bare names, and the data as it was written, byte for byte.

    Raises:
        ValueError: it is no such envelope; the text says why, without the data.
    """
    if not _media_type.fullmatch(content_type):
        raise ValueError(f"of structured mode only the JSON format is read, not {content_type!r}")
    try:
        members = _members(body.decode())
    except RecursionError:
        raise ValueError("its envelope is nested too deeply") from None
    except ValueError as broken:
        raise ValueError(f"its envelope is no JSON object: {_reason(broken)}") from None
    attributes = {
        name: _attribute(name, value)
        for name, (value, _) in members.items()
        if name not in {"data", "data_base64"} and value is not None
    }
    _check(attributes)
    return attributes, _data(members, attributes.get("datacontenttype", "application/json"))


def _reason(broken: ValueError) -> str:
    if isinstance(broken, UnicodeDecodeError):
        return "it is not UTF-8"
    return broken.msg if isinstance(broken, json.JSONDecodeError) else str(broken)[:100]


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def _members(text: str) -> dict[str, tuple[object, str]]:
    """Name -> value and its text: a number written again might not be the same number.

    Raises:
        ValueError: no JSON object, or a name comes twice.
    """
    members: dict[str, tuple[object, str]] = {}
    at, ends = _after(text, 0, "{"), "}"
    while not (not members and text[at : at + 1] == ends):
        name, at = _decoder.raw_decode(text, at)
        if not isinstance(name, str) or name in members:
            raise ValueError("a member has no name, or the name of another")
        start = _after(text, at, ":")
        value, at = _decoder.raw_decode(text, start)
        members[name] = value, text[start:at]
        at = _after(text, at)
        if text[at : at + 1] == ends:
            break
        at = _after(text, at, ",")
    if _after(text, at, ends) != len(text):
        raise ValueError("something follows it")
    return members


def _after(text: str, at: int, sign: str = "") -> int:
    """Past white space, the sign, and white space again."""
    at = _past_space(text, at)
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"{sign!r} is missing", text, at)
    return _past_space(text, at + len(sign))


def _past_space(text: str, at: int) -> int:
    found = _space.match(text, at)
    return at if found is None else found.end()


def _attribute(name: str, value: object) -> str:
    if not _name.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is no name of an attribute")
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int):
        wrong = f"the attribute {name[:40]!r} is no text, integer or boolean"
        raise ValueError(wrong)  # noqa: TRY004 - what is wrong is the message
    text = str(value)
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError(f"the attribute {name[:40]!r} has a lone surrogate")
    return text


def _check(attributes: dict[str, str]) -> None:
    if missing := [name for name in _REQUIRED if not attributes.get(name)]:
        raise ValueError(f"missing or empty in its envelope: {', '.join(missing)}")
    if not attributes["specversion"].startswith("1."):
        raise ValueError(f"specversion {attributes['specversion'][:20]!r} is not 1.x")
    size = sum(len(name) + len(text.encode()) for name, text in attributes.items())
    if len(attributes) > MAX_ATTRIBUTES or size > MAX_BYTES:
        raise ValueError("its attributes exceed the limits")


def _data(members: dict[str, tuple[object, str]], content_type: str) -> bytes:
    data, written = members.get("data", (None, ""))
    encoded = members.get("data_base64", (None, ""))[0]
    if encoded is None:
        is_text = isinstance(data, str) and not _json_type.fullmatch(content_type)
        return (str(data) if is_text else written).encode()
    if "data" in members:
        raise ValueError("it has both data and data_base64")
    try:
        return b64decode(encoded if isinstance(encoded, str) else "=", validate=True)
    except ValueError:
        raise ValueError("its data_base64 is no base64") from None
