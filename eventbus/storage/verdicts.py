"""What every store says of an append, and of the log it keeps: one rule for all of them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import orjson

from eventbus.errors import ConcurrencyError, StorageError, StreamClosedError
from eventbus.message import Message
from eventbus.storage.events import (
    Append,
    Position,
    RecordedMessage,
    StreamHead,
    StreamState,
)

WINDOW = 100_000  # positions that one page of the feed looks through at most
LONGEST_NAME_BYTES = 1000  # of a stream, and of a tenant: both fit into one row of an index
MOST_NOTES, MOST_NOTE_BYTES = 64, 8 << 10  # metadata of a stream
_STATES: Sequence[StreamState] = ("open", "archived", "tombstoned")
_WORDS = ("any", "absent", "present")
_SCHEMA = "urn:eventbus:schema:"
_HIGHEST = 32767  # a schema version fits in 16 bits


def checked(append: Append) -> str:
    """The tenant of an append's messages.

    Raises:
        StorageError: EB5015, there are no messages, the stream has no name or one over the limit,
            `expected` is no version and no word for one, or the messages are of several tenants;
            nothing was written.
    """
    if not append.stream or "\0" in append.stream:
        raise _refused(append, "a stream needs a name, without NUL")
    if not append.messages:
        raise _refused(append, "there are no messages")
    tenant = append.messages[0].tenant
    if any(message.tenant != tenant for message in append.messages[1:]):
        raise _refused(append, "the messages are of several tenants, a stream is of one")
    expected = append.expected
    if expected < 0 if isinstance(expected, int) else expected not in _WORDS:
        raise _refused(append, f"expected is a version, or {', '.join(_WORDS)}: not {expected!r}")
    if _is_too_long(append.stream) or _is_too_long(tenant):
        raise _refused(append, f"a name has at most {LONGEST_NAME_BYTES:,} bytes")
    return tenant


def _is_too_long(name: str) -> bool:
    return len(name) * 4 > LONGEST_NAME_BYTES and len(name.encode()) > LONGEST_NAME_BYTES


def streams_of(appends: Sequence[Append]) -> dict[tuple[str, str], Append]:
    """What is to be loaded, by tenant and stream, in this order, which is the same for all.

    Raises:
        StorageError: EB5015, the arguments, or a stream is there twice.
    """
    streams: dict[tuple[str, str], Append] = {}
    for append in appends:
        stream = (checked(append), append.stream)
        if stream in streams:
            raise _refused(append, "a bulk load has a stream once, whole")
        streams[stream] = append
    return dict(sorted(streams.items()))


def going_out(append: Append, version: int) -> list[Message]:
    """What an append publishes, told its stream and its version there.

    CloudEvents attributes `subject` and `sequence`, 20 digits; the version only of what is recorded
    itself. In the log they are columns: the recorded message stays as it was encoded.

    Args:
        append: that was written.
        version: of the stream, now.
    """
    before = version - len(append.messages)
    return [
        _told(message, {"sequence": f"{before + place:020d}"} if place else {})
        for place, message in places(append)
    ]


def places(append: Append) -> list[tuple[int, Message]]:
    """What an append publishes, told its stream, and its place among what is recorded, from 1.

    For who does not know the version yet; 0: it is not recorded itself.
    """
    numbers = {message.id: place for place, message in enumerate(append.messages, 1)}
    return [
        (numbers.get(message.id, 0), _told(message, {"subject": append.stream}))
        for message in append.publish
    ]


def _told(message: Message, more: Mapping[str, str]) -> Message:
    if not more:
        return message
    return Message(
        id=message.id,
        type=message.type,
        source=message.source,
        topic=message.topic,
        payload=message.payload,
        key=message.key,
        headers={**message.headers, **more},
    )


def conflict(
    append: Append, version: int, conflicting: Sequence[RecordedMessage] = ()
) -> ConcurrencyError:
    """EB5003: the stream is elsewhere, nothing was written."""
    return ConcurrencyError(
        "EB5003",
        f"stream {append.stream} is at version {version}, expected {append.expected}",
        where="events.append",
        why="somebody has appended in between, or the decision was made on an old state",
        next="load, decide and append again",
        version=version,
        conflicting=conflicting,
    )


def closed(stream: str) -> StreamClosedError:
    """EB5014: archived or tombstoned, nothing was written."""
    return StreamClosedError(
        "EB5014",
        f"stream {stream!r} is closed",
        where="events.append",
        why="it was archived or tombstoned: nothing can be appended any more",
        next="append to another stream",
    )


def metadata_bytes(stream: str, metadata: Mapping[str, str]) -> bytes:
    """As they are stored.

    Raises:
        StorageError: EB5016, they are over the limits, or no text.
    """
    texts = [*metadata, *metadata.values()]
    if not all(isinstance(text, str) for text in texts):
        raise no_metadata(stream, "names and values are text")
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError:
        raise no_metadata(stream, "a text has a lone surrogate") from None
    if len(metadata) > MOST_NOTES or size > MOST_NOTE_BYTES:
        raise no_metadata(stream, f"at most {MOST_NOTES} names, {MOST_NOTE_BYTES:,} bytes in all")
    return orjson.dumps(dict(metadata))


def no_metadata(stream: str, why: str) -> StorageError:
    """EB5016: nothing was noted."""
    return StorageError(
        "EB5016",
        f"nothing was noted on stream {stream[:100]!r}",
        where="events.note",
        why=why,
        next="note it on a stream that has events and is not tombstoned, and keep it short",
    )


def head_of(version: int, state: int, kept_from: int, data: bytes | None) -> StreamHead:
    """A row of streams with its metadata."""
    return StreamHead(
        version=version,
        state=_STATES[state],
        kept_from=kept_from,
        metadata={} if data is None else orjson.loads(data),
    )


def number_of_state(state: StreamState) -> int:
    """As a row of streams holds it."""
    return _STATES.index(state)


def audited_stream(stream: str, tenant: str, **more: object) -> str:
    """What the audit row of a change to a stream selects."""
    return orjson.dumps({"place": "stream", "stream": stream, "tenant": tenant, **more}).decode()


def seen_by(append: Append) -> int:
    """The version that the author of an append knew: what conflicts with it comes later."""
    return append.expected if isinstance(append.expected, int) else 0


def window_end(after: Position, bound: Position, upto: Position | None) -> Position:
    """How far one page of the feed looks."""
    end = bound if upto is None else min(bound, upto)
    return Position(min(end, after + WINDOW))


NO_STREAM = "it has no events yet, or was tombstoned"


@lru_cache(maxsize=1024)  # there are as many as classes, and millions of events
def schema_version_of(schema: str) -> int:
    """The version in a header `urn:eventbus:schema:<type>:<version>`, as decoding takes it.

    1 for what has none; 0 if it is higher than a column holds: the header has it.
    """
    told = schema.rpartition(":")[2] if schema.startswith(_SCHEMA) else ""
    if not (told.isascii() and told.isdigit() and len(told) < 10):
        return 1
    version = int(told)
    return version if version <= _HIGHEST else 0


def _refused(append: Append, why: str) -> StorageError:
    return StorageError(
        "EB5015",
        "an append that no stream can take",
        where=f"events.append to {append.stream[:100]!r}",
        why=why,
        next="mend the arguments: nothing was written",
    )
