"""Tags and unacknowledged deliveries between one consumer and its queue."""

import asyncio
from collections.abc import Callable
from typing import cast

from eventbus.memory.history import Exchange
from eventbus.memory.subscription import MemoryDelivery, MemorySubscription
from eventbus.message import Message


class Entry:
    """A queue's copy of a message."""

    __slots__ = ("exchange", "handed", "malformed", "message", "name", "offset", "since")

    def __init__(
        self,
        queue: str,
        exchange: Exchange,
        offset: int,
        message: Message,
        malformed: str | None,
        *,
        handed: int = 0,
    ) -> None:
        self.name: str = queue
        self.exchange: Exchange = exchange
        self.offset: int = offset
        self.message: Message = message
        self.malformed: str | None = malformed
        self.handed: int = handed  # how often
        self.since: float = 0.0  # when, the last time


class Channel:
    """Of one consumer, until it is closed or lost; the next one counts its tags anew."""

    def __init__(
        self,
        member: MemorySubscription,
        *,
        now: Callable[[], float],
        consumer_timeout: float,
        on_timeout: Callable[[], None],
    ) -> None:
        self.recorded: list[MemoryDelivery] = []  # acks that the broker has not got yet
        self.given_back: list[MemoryDelivery] = []  # until the channel closes
        self._member = member
        self._now = now
        self._consumer_timeout = consumer_timeout
        self._on_timeout = on_timeout
        self._tag = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def holds_any(self) -> bool:
        """Something handed out has not come back to the broker as acknowledged."""
        return bool(self._member.open or self.recorded or self.given_back)

    def deliver(self, entry: Entry) -> MemoryDelivery:
        """Hand it out under the next tag."""
        self._tag += 1
        entry.handed += 1
        entry.since = self._now()
        if self._timer is None:
            self._watch(self._consumer_timeout)
        return MemoryDelivery(entry.message, entry.malformed, entry, self._tag, 0, entry.handed > 1)

    def rest(self) -> None:
        """Nothing is held: no timer is needed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> list[MemoryDelivery]:
        """What returns to the queue, in order: recorded acks that were not sent are lost."""
        self.rest()
        unacked = [*self._member.open, *self.recorded, *self.given_back]
        return sorted(unacked, key=lambda delivery: delivery.number)

    def _watch(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """A delivery held for too long costs the channel (`consumer_timeout`)."""
        self._timer = None
        held = [*self._member.open, *self.given_back]
        oldest = min((cast("Entry", each.origin).since for each in held), default=self._now())
        left = oldest + self._consumer_timeout - self._now()
        if left > 0:
            self._watch(left)
        else:
            self._on_timeout()
