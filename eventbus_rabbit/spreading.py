"""Members of a sharded group find out how many they are, so that each serves its share.

The broker makes the first subscriber of a shard its only active one, and never changes its mind:
who started first would serve them all (transports.md, 9.1).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from eventbus.message import new_id
from eventbus_rabbit.connection import RPC_SECONDS, Backoff, Link, close_channel
from eventbus_rabbit.delivery import Intake
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded

log: logging.Logger = logging.getLogger("eventbus.rabbit")

MISSED = 3  # announcements, then a member is taken for gone


class Spreading:
    """Announces this member, listens to the others, and gives up what is more than its share."""

    def __init__(
        self,
        link: Link,
        group: str,
        intakes: Mapping[str, Intake],
        shards: int,
        seconds: float,
        give_up: Callable[[Intake], None],
    ) -> None:
        self._link = link
        self._exchange = f"{group}.members"
        self._intakes = intakes
        self._shards = shards
        self._seconds = seconds
        self._give_up = give_up
        self._name = new_id()
        self._seen: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled; while the broker is away nothing changes."""
        backoff = Backoff()
        while True:
            try:
                channel = await self._link.channel(await self._link.wire())
                try:
                    await self._take_part(channel)
                finally:
                    await close_channel(channel)
            except (BrokenError, RefusedError) as error:
                log.warning("members of %s do not hear each other: %s", self._exchange, error)
            await backoff.wait()

    async def _take_part(self, channel: Channel) -> None:
        await guarded(
            channel.exchange_declare(self._exchange, exchange_type="fanout", auto_delete=True),
            RPC_SECONDS,
        )
        declared = await guarded(channel.queue_declare(exclusive=True), RPC_SECONDS)
        queue = declared.queue or ""
        await guarded(channel.queue_bind(queue, self._exchange), RPC_SECONDS)
        await guarded(channel.basic_consume(queue, self._hear, no_ack=True), RPC_SECONDS)
        while not channel.is_closed:
            await guarded(
                channel.basic_publish(self._name.encode(), exchange=self._exchange), RPC_SECONDS
            )
            await asyncio.sleep(self._seconds * random.uniform(0.9, 1.1))  # noqa: S311 - jitter
            self._weigh(asyncio.get_running_loop().time())
        raise BrokenError("a channel was closed")

    async def _hear(self, delivered: DeliveredMessage) -> None:
        self._seen[delivered.body.decode(errors="replace")] = asyncio.get_running_loop().time()

    def _weigh(self, now: float) -> None:
        """Give up one shard if this member is active on more than its share."""
        oldest = now - MISSED * self._seconds
        self._seen = {name: at for name, at in self._seen.items() if at >= oldest}
        active = [intake for intake in self._intakes.values() if intake.received]
        if len(active) > share(self._shards, len(self._seen | {self._name: now})):
            self._give_up(random.choice(active))  # noqa: S311 - any of them


def share(shards: int, members: int) -> int:
    """How many shards a member serves at most, so that all are served."""
    return -(-shards // members)
