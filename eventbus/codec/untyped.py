"""A body as a dict, whatever its type."""

import orjson

from eventbus.errors import DecodeError, LimitError
from eventbus.event import Untyped
from eventbus.message import Message

MAX_DEPTH = 64


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
            where=place_of(message),
            why="hostile or broken input of this kind exhausts readers",
            next="it is quarantined: look at it with `eventbus dead-letter show`",
        )
    return Untyped(message.type, data)


def _no_object(message: Message, why: str) -> DecodeError:
    return DecodeError(
        "EB3102",
        f"the body of {message.type!r} is no JSON object",
        where=place_of(message),
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


def place_of(message: Message) -> str:
    """What a message is found by, for messages to people."""
    return f"topic {message.topic}  key {message.key}  id {message.id}  source {message.source}"
