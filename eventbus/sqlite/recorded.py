"""Event <-> row: the only file that knows the columns of eventbus_events."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from eventbus.message import Message
from eventbus.sqlite.rows import MESSAGE, Row, headers_text, message_of
from eventbus.storage.events import Position
from eventbus.storage.verdicts import schema_version_of

RECORDED = f"position, version, recorded_at, schema_version, stream, {MESSAGE}"
EVENT = f"stream_id, version, identity, schema_version, tenant, stream, {MESSAGE}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event with its place."""

    message: Message
    stream: str
    version: int
    position: Position
    recorded_at: datetime
    schema_version: int

    @property
    def type(self) -> str:
        """Of the message."""
        return self.message.type

    @property
    def payload(self) -> bytes:
        """Of the message."""
        return self.message.payload

    @property
    def tenant(self) -> str:
        """Of the message, or empty."""
        return self.message.tenant


def event_row(message: Message, stream_id: int, version: int, tenant: str, stream: str) -> Row:
    """A row in the order of `EVENT`."""
    return (
        stream_id,
        version,
        str(message.identity),
        schema_version_of(message.headers.get("dataschema", "")),
        tenant,
        stream,
        message.id,
        message.type,
        message.source,
        message.topic,
        message.key,
        headers_text(message.headers),
        message.payload,
    )


def recorded_of(row: Row) -> StoredEvent:
    """The event of the columns `RECORDED`."""
    return StoredEvent(
        message=message_of(row[5:]),
        stream=row[4],
        version=row[1],
        position=Position(row[0]),
        recorded_at=_EPOCH + timedelta(milliseconds=row[2]),
        schema_version=row[3],
    )


def stamp_of(moment: datetime) -> int:
    """A moment in the unit of the tables."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
