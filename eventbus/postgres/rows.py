"""Message <-> row: the only file that knows the columns of messages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from eventbus.message import Message, own_key
from eventbus.storage.events import Position
from eventbus.storage.outbox import Outgoing, partition_of
from eventbus.storage.parking import Failure, Parked

UNDATED = date(1970, 1, 1)
_MILLISECONDS = 86_400_000  # of a day
_FIRST, _LAST = date(2000, 1, 1), date(2199, 12, 31)

KEPT = (  # parked and discarded rows share them
    "group_name, key, seq, message, message_id, type, source, topic, message_key, headers, payload,"
    " position, origin, attempts, reason, code, error_type, error, fingerprint, parked_at"
)

Columns = tuple[Sequence[Any], ...]


def outgoing_values(message: Message) -> tuple[Any, ...]:
    """part, message_id, type, source, topic, key, headers, payload."""
    return (
        part_of(message),
        message.id,
        message.type,
        message.source,
        message.topic,
        message.key,
        headers_bytes(message.headers),
        message.payload,
    )


def outgoing_columns(messages: Sequence[Message]) -> Columns:
    """The same of several: an array each."""
    if not messages:
        return ((),) * 8
    return tuple(zip(*map(outgoing_values, messages), strict=True))


def part_of(message: Message) -> int:
    """The partition of the outbox that a message goes by."""
    return partition_of(own_key(message) if message.key is None else message.key)


def outgoing_of(row: Sequence[Any]) -> Outgoing:
    """A row of the outbox in the order of its `read`: by place, which is the quickest."""
    part, number, name, kind, source, topic, key, headers, payload, attempts, age = row
    return Outgoing(
        partition=part,
        row=number,
        message=Message(
            id=name,
            type=kind,
            source=source,
            topic=topic,
            key=key,
            headers=orjson.loads(headers),
            payload=payload,
        ),
        attempts=attempts,
        age=age,
    )


def message_of(row: Mapping[str, Any], key: str | None) -> Message:
    """The message of a row; its key stands under different names."""
    return Message(
        id=row["message_id"],
        type=row["type"],
        source=row["source"],
        topic=row["topic"],
        key=key,
        headers=orjson.loads(row["headers"]),
        payload=row["payload"],
    )


def parked_columns(parked: Sequence[Parked]) -> Columns:
    """The arrays that the function `park` takes, in its order."""
    parked = _each_once(parked)
    messages = [one.message for one in parked]
    failures = [one.failure for one in parked]
    return (
        [one.key for one in parked],
        [message.identity for message in messages],
        [message.id for message in messages],
        [message.type for message in messages],
        [message.source for message in messages],
        [message.topic for message in messages],
        [message.key for message in messages],
        [headers_bytes(message.headers) for message in messages],
        [message.payload for message in messages],
        [one.position for one in parked],
        [one.origin for one in parked],
        [one.attempts for one in parked],
        [None if failure is None else failure.reason for failure in failures],
        [None if failure is None else clean(failure.code) for failure in failures],
        [None if failure is None else clean(failure.type) for failure in failures],
        [None if failure is None else clean(failure.text) for failure in failures],
        [None if failure is None else clean(failure.fingerprint) for failure in failures],
        [one.delay for one in parked],
    )


def _each_once(parked: Sequence[Parked]) -> Sequence[Parked]:
    """One statement cannot touch a row twice: the first place, the last failure, all attempts."""
    once: dict[UUID, Parked] = {}
    for one in parked:
        before = once.setdefault(one.message.identity, one)
        if before is not one:
            told = before if one.failure is None else one
            attempts = max(before.attempts, one.attempts)
            once[one.message.identity] = replace(told, attempts=attempts, key=before.key)
    return list(once.values())


def parked_of(row: Mapping[str, Any]) -> Parked:
    """A parked message; its key retries, so `delay` is zero once it was tried."""
    failure = None
    if row["reason"] is not None:
        failure = Failure(
            reason=row["reason"],
            code=row["code"],
            type=row["error_type"],
            text=row["error"],
            fingerprint=row["fingerprint"],
        )
    return Parked(
        message=message_of(row, row["message_key"]),
        key=row["key"],
        attempts=row["attempts"],
        delay=None if failure is None else timedelta(0),
        origin=row["origin"],
        position=None if row["position"] is None else Position(row["position"]),
        failure=failure,
    )


def identities_and_days(messages: Sequence[Message]) -> tuple[list[UUID], list[date]]:
    """Each identity once, with the day of its message: never today's, or midnight lets one in."""
    days = {message.identity: day_of(message) for message in messages}
    return list(days), list(days.values())


def day_of(message: Message) -> date:
    """From the UUIDv7, else from CloudEvents `time`, else the day of what has none."""
    identity = message.identity
    try:
        if identity.version == 7:
            return _day((identity.int >> 80) // _MILLISECONDS)
        told = datetime.fromisoformat(message.headers.get("time", ""))
        return _within(told.astimezone(UTC).date() if told.tzinfo else told.date())
    except (ValueError, OverflowError):  # no time, or one that no calendar has
        return UNDATED


@lru_cache(64)
def _day(number: int) -> date:
    """By its number since 1970: messages of a batch are of one day."""
    return _within(date.fromordinal(UNDATED.toordinal() + number))


def _within(day: date) -> date:
    return day if _FIRST <= day <= _LAST else UNDATED


def headers_bytes(headers: Mapping[str, str]) -> bytes:
    """Headers as JSON."""
    return orjson.dumps(headers if type(headers) is dict else dict(headers))


def clean(text: str) -> str:
    """Text that the database takes: no NUL, no lone surrogates, at most 8 KiB (X16)."""
    encoded = text.replace("\0", "").encode("utf-8", "replace")
    return encoded[:8192].decode("utf-8", "ignore")
