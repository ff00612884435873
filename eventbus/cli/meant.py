"""What a name that the log does not have was probably meant to be."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus.sourcing import EventLog, Recorded

_MOST = 20_000  # events that are looked through


def none_of(what: str, instead: str) -> Exception:
    """EB8007: the log has no such thing; and how to look for it."""
    from eventbus.cli.locate import called
    from eventbus.errors import EventBusError

    return EventBusError(
        "EB8007",
        what,
        where=called(),
        why="no stream holds one: published without being recorded, or in another storage",
        next=instead,
    )


def tombstoned(stream: str) -> Exception:
    """EB8007: it was there."""
    from eventbus.cli.locate import called
    from eventbus.errors import EventBusError

    return EventBusError(
        "EB8007",
        f"stream {stream!r} is tombstoned",
        where=called(),
        why="it is read no more, and its name never used again; the log as a whole shows its events"
        " until they are deleted",
        next=f"eventbus event head {stream}",
    )


def type_of(one: "Recorded") -> str:
    """A name that could have been meant."""
    return one.recorded.type


def stream_of(one: "Recorded") -> str:
    """A name that could have been meant."""
    return one.recorded.stream


async def close_to(
    log: "EventLog", meant: Sequence[str], name_of: Callable[["Recorded"], str]
) -> list[str]:
    """What could have been meant, among the names of the first 20,000 events."""
    from difflib import get_close_matches

    names: dict[str, None] = {}
    if meant:
        async with aclosing(log.search()) as events:
            seen = 0
            async for one in events:
                names[name_of(one)] = None
                seen += 1
                if seen == _MOST:
                    break
    return [
        close
        for each in meant
        if each not in names
        for close in get_close_matches(each, names, n=3, cutoff=0.6)
    ]


async def no_stream(log: "EventLog", stream: str) -> Exception:
    """EB8007: with the streams that could have been meant."""
    close = await close_to(log, [stream], stream_of)
    instead = " | ".join(f"eventbus event read {name}" for name in close)
    return none_of(f"no stream {stream!r}", instead or "eventbus event search --category C")
