"""Bulk load: many whole streams, a commit for some thousands of events."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from eventbus.event import Event
from eventbus.sourcing.forgetting import Encode
from eventbus.sourcing.inline import Inline
from eventbus.storage import Storage
from eventbus.storage.events import Append

COMMIT = 20_000  # events

Streams = Sequence[tuple[Append, Sequence[Event]]]


async def load(
    storage: Storage,
    inline: Inline,
    encode: Encode,
    streams: Iterable[tuple[str, Sequence[Event]]],
    *,
    skip: bool,
    headers: Mapping[str, str],
    tell: Callable[[int], None],
) -> int:
    """Load streams that do not exist yet; `EventLog.load` says what is promised."""
    loaded, size = 0, 0
    waiting: list[tuple[Append, Sequence[Event]]] = []
    for stream, events in streams:
        messages = await encode(events, headers)
        append = Append(stream=stream, messages=messages, expected="absent")
        waiting.append((append, events))
        size += len(messages)
        if size >= COMMIT:
            loaded += await _commit(storage, inline, waiting, skip=skip)
            tell(loaded)
            waiting, size = [], 0
    if waiting:
        loaded += await _commit(storage, inline, waiting, skip=skip)
        tell(loaded)
    return loaded


async def _commit(storage: Storage, inline: Inline, streams: Streams, *, skip: bool) -> int:
    if any(inline.concerns(events) for _, events in streams):
        return await inline.load(storage, streams, skip=skip)
    return await storage.load_events([append for append, _ in streams], skip=skip)
