"""Event <-> row: the only file that knows the columns of events."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from eventbus.message import Message, identity_of
from eventbus.postgres.rows import Columns
from eventbus.storage.events import Position, RecordedMessage
from eventbus.storage.verdicts import schema_version_of

COLUMNS = "position, version, type, event_id, recorded_at, schema_version, stream, data, meta"


def event_columns(messages: Sequence[Message]) -> Columns:
    """types, ids, data, meta, schema versions, correlations, causations: an array each."""
    return (
        [message.type for message in messages],
        [message.identity for message in messages],
        [message.payload for message in messages],
        [_meta(message) for message in messages],
        [schema_version_of(message) for message in messages],
        [_reference(message, "correlationid") for message in messages],
        [_reference(message, "causationid") for message in messages],
    )


def recorded_of(row: Mapping[str, Any]) -> RecordedMessage:
    """The event of a row, its message equal to the one that was appended."""
    meta: dict[str, Any] = orjson.loads(row["meta"])
    return RecordedMessage(
        message=Message(
            id=meta.get("id") or str(row["event_id"]),
            type=row["type"],
            source=meta["source"],
            topic=meta["topic"],
            key=meta.get("key"),
            headers=meta["headers"],
            payload=row["data"],
        ),
        stream=row["stream"],
        version=row["version"],
        position=Position(row["position"]),
        recorded_at=row["recorded_at"],
        schema_version=row["schema_version"],
    )


def _meta(message: Message) -> bytes:
    """What has no column; the id only if it is none of ours."""
    meta: dict[str, Any] = {
        "source": message.source,
        "topic": message.topic,
        "headers": dict(message.headers),
    }
    if message.key is not None:
        meta["key"] = message.key
    if message.id != str(message.identity):
        meta["id"] = message.id
    return orjson.dumps(meta)


def _reference(message: Message, header: str) -> UUID | None:
    told = message.headers.get(header)
    return None if told is None else identity_of(message.source, told)
