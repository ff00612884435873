"""Message <-> row: the only file that knows the columns of messages."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, cast

import orjson

from eventbus.errors import StorageError
from eventbus.message import Message, own_key
from eventbus.storage.events import Position
from eventbus.storage.outbox import partition_of
from eventbus.storage.parking import Failure, Parked

LONG_AGO = -1
NEVER = 2**53 - 1  # exact in JSON and in floats too

MESSAGE = "message_id, type, source, topic, key, headers, payload"
OUTGOING = "part, " + MESSAGE
STORY = (
    "message_id, type, source, topic, message_key, headers, payload, "
    "position, origin, attempts, reason, code, error_type, error, fingerprint"
)
PARKED = "group_name, key, message, " + STORY
KEPT = "group_name, key, message, seq, parked_at, " + STORY  # parked and discarded rows share it


def prefixed(columns: str, table: str) -> str:
    """The columns of one table of a join."""
    return ", ".join(f"{table}.{column.strip()}" for column in columns.split(","))


Row = tuple[Any, ...]


def outgoing_row(message: Message) -> Row:
    """A row of the outbox in the order of `OUTGOING`."""
    key = message.key
    part = partition_of(own_key(message) if key is None else key)
    return (
        part,
        message.id,
        message.type,
        message.source,
        message.topic,
        key,
        headers_text(message.headers),
        message.payload,
    )


def message_of(row: Row) -> Message:
    """The message of the columns `MESSAGE`."""
    return Message(
        id=row[0],
        type=row[1],
        source=row[2],
        topic=row[3],
        key=row[4],
        headers=orjson.loads(row[5]),
        payload=row[6],
    )


def parked_row(parked: Parked, group: str) -> Row:
    """A row in the order of `PARKED`."""
    message = parked.message
    failure = parked.failure
    story: Row = (None, None, None, None, None)
    if failure is not None:
        text = clean(failure.text)
        story = (failure.reason, failure.code, failure.type, text, failure.fingerprint)
    return (
        group,
        parked.key,
        str(message.identity),
        message.id,
        message.type,
        message.source,
        message.topic,
        message.key,
        headers_text(message.headers),
        message.payload,
        parked.position,
        parked.origin,
        parked.attempts,
        *story,
    )


def parked_of(row: Row) -> Parked:
    """The parked message of the columns `PARKED`; its key retries, so `delay` is zero."""
    failure = None
    if row[13] is not None:
        failure = Failure(
            reason=row[13], code=row[14], type=row[15], text=row[16], fingerprint=row[17]
        )
    return Parked(
        message=message_of(row[3:10]),
        key=row[1],
        attempts=row[12],
        delay=None if failure is None else timedelta(0),
        origin=row[11],
        position=None if row[10] is None else Position(row[10]),
        failure=failure,
    )


def headers_text(headers: Mapping[str, str]) -> str:
    """Headers as JSON; strings that are no UTF-8 keep their escapes."""
    try:
        return orjson.dumps(dict(headers)).decode()
    except TypeError:  # a lone surrogate in a foreign header
        return json.dumps(dict(headers))


def json_list(values: Iterable[str | int | Sequence[str | int]]) -> str:
    """Values for `json_each`, which cannot take blobs.

    Raises:
        StorageError: EB5009, a text that SQLite's JSON would cut at a NUL, or that is no UTF-8.
    """
    try:
        text = orjson.dumps(list(values)).decode()
    except TypeError as error:
        raise _no_text("a lone surrogate") from error
    if "\\u0000" in text:
        raise _no_text("a NUL")
    return text


def json_rows(text: str) -> list[Any]:
    """What `json_group_array` gave: one step of the statement instead of one per row."""
    return cast("list[Any]", orjson.loads(text))


@lru_cache(maxsize=512)
def milliseconds(span: timedelta) -> int:
    """A span in the unit of the tables."""
    return round(span.total_seconds() * 1000)


def clean(text: str) -> str:
    """Text that every store takes: no NUL, no lone surrogates, at most 8 KiB (X16)."""
    encoded = text.replace("\0", "").encode("utf-8", "replace")
    return encoded[:8192].decode("utf-8", "ignore")


def _no_text(what: str) -> StorageError:
    return StorageError(
        "EB5009",
        f"a key or id contains {what}",
        where="a list of keys or ids",
        why="it cannot be stored and compared as text",
        next="validate keys before they are published; foreign ones are quarantined",
    )
