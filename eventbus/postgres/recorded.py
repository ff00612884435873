"""Event <-> row: the only file that knows the columns of events; there are millions of them."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from eventbus.message import Message, identity_of
from eventbus.postgres.rows import Columns
from eventbus.storage.events import RecordedMessage
from eventbus.storage.verdicts import schema_version_of

COLUMNS = "position, version, type, event_id::text, recorded_at, schema_version, stream, data, meta"
# As UUIDs are written: the driver takes the text, and parses it in C.
_CANONICAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def event_columns(messages: Sequence[Message]) -> Columns:
    """types, ids, data, meta, schema versions, correlations, causations: an array each."""
    ids = [message.id if _CANONICAL(message.id) else message.identity for message in messages]
    return (
        [message.type for message in messages],
        ids,
        [message.payload for message in messages],
        [_meta(*pair) for pair in zip(messages, ids, strict=True)],
        [schema_version_of(message) for message in messages],
        [_reference(message, "correlationid") for message in messages],
        [_reference(message, "causationid") for message in messages],
    )


def recorded_of(row: Sequence[Any]) -> RecordedMessage:
    """The event of a row, its message equal to the one that was appended; by place: quickest."""
    position, version, kind, event_id, recorded_at, schema_version, stream, data, text = row
    meta = orjson.loads(text)
    return RecordedMessage(
        message=Message(
            id=meta.get("id", event_id),
            type=kind,
            source=meta["source"],
            topic=meta["topic"],
            key=meta.get("key"),
            headers=meta["headers"],
            payload=data,
        ),
        stream=stream,
        version=version,
        position=position,
        recorded_at=recorded_at,
        schema_version=schema_version,
    )


def _meta(message: Message, identity: str | UUID) -> bytes:
    """What has no column; the id only if it is none of ours."""
    meta: dict[str, Any] = {
        "source": message.source,
        "topic": message.topic,
        "headers": dict(message.headers),
    }
    if message.key is not None:
        meta["key"] = message.key
    if identity is not message.id:
        meta["id"] = message.id
    return orjson.dumps(meta)


def _reference(message: Message, header: str) -> UUID | str | None:
    told = message.headers.get(header)
    return None if told is None else _referred(message.source, told)


@lru_cache(maxsize=256)  # a batch has one cause
def _referred(source: str, told: str) -> UUID | str:
    return told if _CANONICAL(told) else identity_of(source, told)
