"""Event <-> row: the only file that knows the columns of events; there are millions of them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson

from eventbus.message import Message, identity_of
from eventbus.postgres.rows import Columns
from eventbus.storage.events import Position
from eventbus.storage.verdicts import schema_version_of

_COLUMNS = (  # id and time as they are sent anyway: nothing is made of them until it is asked for
    *("position", "version", "type", "uuid_send({}event_id)", "timestamptz_send({}recorded_at)"),
    *("schema_version", "stream", "data", "meta"),
)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # of the server
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


if TYPE_CHECKING:  # the driver carries no types to whoever checks this package without its stubs
    _Row = tuple[Any, ...]
else:
    _Row = asyncpg.Record


def _column(place: int) -> Any:
    """A value of the row as an attribute; a property that runs no Python: a third of the time."""
    return property(itemgetter(place))


class StoredEvent(_Row):
    """The row of an event; what costs time is made when it is asked for (measured: 0024, 0040)."""

    position: Position = _column(0)
    version: int = _column(1)
    type: str = _column(2)
    schema_version: int = _column(5)
    stream: str = _column(6)
    payload: bytes = _column(7)
    _message: Message | None = None

    @property
    def recorded_at(self) -> datetime:
        """UTC, to the microsecond."""
        return time_of(self[4])

    @property
    def tenant(self) -> str:
        """Of the message, or empty: headers that do not name it are not read."""
        return self.message.tenant if _NAMES_TENANT in self[8] else ""

    @property
    def message(self) -> Message:
        """Equal to the one that was appended."""
        if self._message is None:
            self._message = message_of(self[2], self[3], self[7], self[8])
        return self._message

    def __repr__(self) -> str:
        return f"<{self.type} {self.stream}@{self.version} position {self.position}>"


def time_of(told: bytes) -> datetime:
    """What `timestamptz_send` told."""
    return _EPOCH + timedelta(microseconds=int.from_bytes(told, "big", signed=True))


def message_of(kind: str, event_id: bytes, payload: bytes, text: bytes) -> Message:
    """The message of an event, from what its columns hold."""
    meta = orjson.loads(text)
    return Message(
        id=meta["id"] if "id" in meta else str(UUID(bytes=event_id)),
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
