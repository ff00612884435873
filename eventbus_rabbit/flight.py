"""What is in flight: calls, their messages, the channels that carry them."""

import asyncio
import re
from collections.abc import Callable
from zlib import crc32

from aiormq.channel import Channel
from aiormq.exceptions import PublishError as ReturnedError

from eventbus.errors import Confirmed, NotSent, PublishResult, Rejected, Unknown
from eventbus.message import Message
from eventbus_rabbit.frames import Frames
from eventbus_rabbit.mapping import address_of, content_header, message_id_of

TOO_LARGE = "larger than the broker takes"
CONFIRMED, NOT_SENT, UNKNOWN = Confirmed(), NotSent(), Unknown()


class Call:
    """One `publish`: what became of each of its messages."""

    __slots__ = ("broken", "deadline", "done", "left", "results")

    def __init__(self, count: int, deadline: float, done: asyncio.Future[None]) -> None:
        self.results: list[PublishResult | None] = [None] * count
        self.left = count
        self.deadline = deadline
        self.done = done
        self.broken = False  # something of it is unknown: what was not sent stays so

    def settle(self, place: int, result: PublishResult) -> None:
        """Once for each message, unless the call is over."""
        if self.results[place] is None:
            self.results[place] = result
            self.left -= 1
            if self.left == 0 and not self.done.done():
                self.done.set_result(None)


class Item:
    """A message on its way, and the place where the client puts its confirm.

    The client calls what it would call of a future; a future for each message costs 5 µs.
    """

    __slots__ = (
        "address",
        "body",
        "call",
        "header",
        "id",
        "lane",
        "mandatory",
        "place",
        "sender",
        "task",
    )

    def __init__(self, call: Call, place: int, message: Message, mandatory: bool) -> None:
        self.call = call
        self.place = place
        self.id = message_id_of(message)
        self.address = address_of(message)
        self.header = content_header(message)
        self.body = message.payload
        self.mandatory = mandatory
        self.lane = crc32((message.key or "").encode())
        self.sender: Lane | None = None  # set when it is written
        self.task: asyncio.Task[None] | None = None  # of the slow way, while it waits

    @property
    def target(self) -> str:
        """What must be there before it is sent: an exchange, or the queue of dead letters."""
        return self.address[0] or self.address[1]

    def done(self) -> bool:
        """For the client."""
        return self.sender is None

    def cancelled(self) -> bool:
        """For the client."""
        return False

    def set_result(self, frame: object) -> None:
        """The broker holds it."""
        self._settle(CONFIRMED)

    def set_exception(self, error: BaseException) -> None:
        """Returned, or refused by one of its queues: another one may hold it."""
        if isinstance(error, ReturnedError):
            self._settle(Rejected(f"nobody is bound to it: {error.args[0]} {self.address}"))
        else:
            self._settle(UNKNOWN)

    def _settle(self, result: PublishResult) -> None:
        if self.sender is not None:
            lane, self.sender = self.sender, None
            lane.forget(self)
            self.call.settle(self.place, result)

    def refuse(self, reason: str) -> None:
        """The broker closed the channel because of it."""
        self._settle(Rejected(reason))

    def lose(self) -> None:
        """It was written, and nobody will say what became of it."""
        self.call.broken = True
        self._settle(UNKNOWN)


class Lane:
    """A channel and what is in flight on it: one message per id, for returns go by the id (T4)."""

    __slots__ = ("_has_room", "channel", "frames", "open")

    def __init__(self, channel: Channel, has_room: Callable[[], None]) -> None:
        self.channel = channel
        self.frames = Frames(channel.number, channel.max_content_size)
        self.open: dict[str, Item] = {}
        self._has_room = has_room

    def take(self, item: Item) -> None:
        """It is about to be written."""
        self.open[item.id] = item
        item.sender = self

    def forget(self, item: Item) -> None:
        """Nothing will be said about it any more."""
        self.open.pop(item.id, None)
        self.channel.message_id_delivery_tag.pop(item.id, None)
        self._has_room()

    def lose(self) -> None:
        """The channel is gone; what is larger than the broker takes is not there for certain."""
        most = self._most()
        for item in list(self.open.values()):
            if most is not None and len(item.body) > most:
                item.refuse(f"{TOO_LARGE}: body of {len(item.body)} bytes, it takes {most}")
            else:
                item.lose()

    def _most(self) -> int | None:
        """Its `max_message_size`, if that is why it closed the channel: it names no message."""
        closing = self.channel.closing
        if not closing.done() or closing.cancelled():
            return None
        said = re.search(r"larger than configured max size (\d+)", str(closing.exception()))
        return None if said is None else int(said[1])
