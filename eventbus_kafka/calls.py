"""Calls of `publish`, their messages on the way into batches, and what is said of them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from eventbus.errors import (
    Confirmed,
    NotSent,
    PublishError,
    PublishResult,
    PublishUnknownError,
    Rejected,
    Unknown,
)
from eventbus.message import Message
from eventbus_kafka.mapping import headers_of, timestamp_of

CONFIRMED, NOT_SENT, UNKNOWN = Confirmed(), NotSent(), Unknown()
TOO_LARGE = "body of"


class Call:
    """One `publish`: how many of its messages have no result yet, and what failed."""

    __slots__ = ("deadline", "done", "failed", "flying", "is_over", "left", "messages", "stopped")

    def __init__(self, messages: Sequence[Message], deadline: float) -> None:
        self.messages = messages
        self.deadline = deadline
        self.left = len(messages)
        self.flying = 0
        self.failed: dict[int, PublishResult] = {}
        self.stopped: set[Lane] = set()  # nothing more of this call goes there
        self.is_over = False
        self.done: asyncio.Future[None] | None = None

    def settle(self, place: int, result: PublishResult) -> None:
        """One more has its result; with the last one the call ends."""
        if result is not CONFIRMED:
            self.failed[place] = result
        self.left -= 1
        if not self.left and self.done is not None and not self.done.done():
            self.done.set_result(None)

    def results(self) -> list[PublishResult]:
        """Aligned with the messages."""
        return [self.failed.get(place, CONFIRMED) for place in range(len(self.messages))]


class Entry:
    """A message of a call on its way into a batch."""

    __slots__ = ("call", "headers", "key", "place", "size", "timestamp", "value")

    def __init__(self, call: Call, place: int, message: Message, key: bytes | None) -> None:
        self.call = call
        self.place = place
        self.key = key
        self.value = message.payload
        self.headers = headers_of(message)
        self.timestamp = timestamp_of(message)
        self.size = len(message.payload) + 256


class Lane:
    """A partition: what waits for it, and the batch under way."""

    __slots__ = ("flight", "number", "singly", "timed", "topic", "waiting")

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.waiting: deque[Entry] = deque()
        self.flight: list[Entry] = []
        self.singly = 0  # so many go message by message, to find the one that is refused
        self.timed = True  # the batch under way: its records have timestamps


def publish_error(
    messages: Sequence[Message],
    results: Sequence[PublishResult],
    *,
    where: str,
    why: str | None,
    again: Callable[[], Awaitable[None]],
) -> PublishError:
    """What to raise for results of which at least one is not `Confirmed`."""
    topics = ", ".join(dict.fromkeys(message.topic for message in messages))
    place = f"topic {topics}, {where}"
    unknown = sum(isinstance(result, Unknown) for result in results)
    refused = next((result for result in results if isinstance(result, Rejected)), None)
    if unknown:
        return PublishUnknownError(
            "EB2104",
            f"publish of {unknown} messages is unknown: no confirmation in time",
            results=results,
            where=place,
            why=why or "the broker may hold them; the producer is built anew",
            next="await error.resolve() sends the same ids again (inboxes drop repeats); with a "
            "storage the outbox does this for you",
            again=again,
        )
    if refused is None:
        return PublishError(
            "EB2106",
            f"{len(results)} messages were not sent",
            results=results,
            where=place,
            why=why or "another one stopped them",
            next="publish them again; with a storage the outbox does this for you",
        )
    if refused.reason.startswith(TOO_LARGE):
        return PublishError(
            "EB2102",
            "a message is larger than max_body",
            results=results,
            where=place,
            why=refused.reason,
            next="send a reference instead of the data, or raise max_body",
        )
    return PublishError(
        "EB2101",
        "Kafka refused a message",
        results=results,
        where=place,
        why=refused.reason,
        next="mend the message or the topic; what is NotSent may be published again",
    )
