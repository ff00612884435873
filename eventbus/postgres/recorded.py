"""Event <-> row: the only file that knows the columns of events; there are millions of them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import orjson

from eventbus.message import Message, identity_of
from eventbus.postgres.rows import Columns
from eventbus.storage.events import Position
from eventbus.storage.verdicts import schema_version_of

_COLUMNS = (  # a number costs the driver a tenth of a timestamp
    *("position", "version", "type", "event_id::text", "date_part('epoch', {}recorded_at)"),
    *("schema_version", "stream", "data", "meta"),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES_TENANT = b'"tenant"'  # within a JSON text it would stand as \\"tenant\\"
# As UUIDs are written: the driver takes the text, and parses it in C.
_CANONICAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def columns(table: str = "") -> str:
    """What a `StoredEvent` is made of, of a table of that name."""
    dot = f"{table}." if table else ""
    return ", ".join(each.format(dot) if "{}" in each else f"{dot}{each}" for each in _COLUMNS)


def event_values(message: Message) -> tuple[Any, ...]:
    """type, id, data, meta, schema version, correlation, causation."""
    headers, source = message.headers, message.source
    identity = message.id if _CANONICAL(message.id) else message.identity
    return (
        message.type,
        identity,
        message.payload,
        _meta(message, identity),
        schema_version_of(headers.get("dataschema", "")),
        _referred(source, headers.get("correlationid")),
        _referred(source, headers.get("causationid")),
    )


def event_columns(messages: Sequence[Message]) -> Columns:
    """The same of several: an array each.

    The last three are empty if they would say the same everywhere, version 1 and nothing: the
    driver looks three times at each element that is no text (measured: 1 µs an event).
    """
    *texts, versions, correlations, causations = zip(*map(event_values, messages), strict=True)
    return (
        *texts,
        _unless_all(1, versions),
        _unless_all(None, correlations),
        _unless_all(None, causations),
    )


def _unless_all(usual: object, values: Sequence[Any]) -> Sequence[Any]:
    return () if values.count(usual) == len(values) else values


class StoredEvent:
    """The row of an event; what costs time is made when it is asked for (measured: 0024)."""

    __slots__ = ("_message", "_row")

    def __init__(self, row: Sequence[Any]) -> None:
        self._row = row
        self._message: Message | None = None

    @property
    def position(self) -> Position:
        """In the log."""
        return Position(self._row[0])

    @property
    def version(self) -> int:
        """In its stream."""
        return cast("int", self._row[1])

    @property
    def type(self) -> str:
        """Of the message."""
        return cast("str", self._row[2])

    @property
    def recorded_at(self) -> datetime:
        """UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=round(self._row[4] * 1e6))

    @property
    def schema_version(self) -> int:
        """Of the class that it was encoded by; 0: more than the column holds."""
        return cast("int", self._row[5])

    @property
    def stream(self) -> str:
        """Its name."""
        return cast("str", self._row[6])

    @property
    def payload(self) -> bytes:
        """Of the message."""
        return cast("bytes", self._row[7])

    @property
    def tenant(self) -> str:
        """Of the message, or empty: headers that do not name it are not read."""
        return self.message.tenant if _NAMES_TENANT in self._row[8] else ""

    @property
    def message(self) -> Message:
        """Equal to the one that was appended."""
        if self._message is None:
            self._message = _message(self._row[2], self._row[3], self._row[7], self._row[8])
        return self._message

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredEvent) and tuple(self._row) == tuple(other._row)

    def __hash__(self) -> int:
        return hash(self.position)

    def __repr__(self) -> str:
        return f"<{self.type} {self.stream}@{self.version} position {self.position}>"


def _message(kind: str, event_id: str, payload: bytes, text: bytes) -> Message:
    meta = orjson.loads(text)
    return Message(
        id=meta.get("id", event_id),
        type=kind,
        source=meta["source"],
        topic=meta["topic"],
        key=meta.get("key"),
        headers=meta["headers"],
        payload=payload,
    )


def _meta(message: Message, identity: str | UUID) -> bytes:
    """What has no column; the id only if it is none of ours."""
    headers = message.headers
    meta: dict[str, Any] = {
        "source": message.source,
        "topic": message.topic,
        "headers": headers if type(headers) is dict else dict(headers),
    }
    if message.key is not None:
        meta["key"] = message.key
    if identity is not message.id:
        meta["id"] = message.id
    return orjson.dumps(meta)


@lru_cache(maxsize=256)  # a batch has one cause
def _referred(source: str, told: str | None) -> UUID | str | None:
    if told is None:
        return None
    return told if _CANONICAL(told) else identity_of(source, told)
