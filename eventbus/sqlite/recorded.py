"""Event <-> row: the only file that knows the columns of eventbus_events."""

from datetime import UTC, datetime, timedelta

from eventbus.message import Message
from eventbus.sqlite.rows import MESSAGE, Row, headers_text, message_of
from eventbus.storage.events import Position, RecordedMessage
from eventbus.storage.verdicts import schema_version_of

RECORDED = f"position, version, recorded_at, schema_version, stream, {MESSAGE}"
EVENT = f"stream_id, version, identity, schema_version, tenant, stream, {MESSAGE}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event_row(message: Message, stream_id: int, version: int, tenant: str, stream: str) -> Row:
    """A row in the order of `EVENT`."""
    return (
        stream_id,
        version,
        str(message.identity),
        schema_version_of(message),
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


def recorded_of(row: Row) -> RecordedMessage:
    """The event of the columns `RECORDED`."""
    return RecordedMessage(
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
