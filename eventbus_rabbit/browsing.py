"""What stands in a queue: looked at and put back, or taken away."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiormq.channel import Channel
from pamqp.commands import Basic

from eventbus.message import Message
from eventbus_rabbit.arrival import as_arrival
from eventbus_rabbit.connection import RPC_SECONDS, Link
from eventbus_rabbit.errors import guarded
from eventbus_rabbit.mapping import read


@dataclass(frozen=True, slots=True)
class Seen:
    """A `Delivery` that is with the queue again: nobody waits for its verdict."""

    message: Message
    malformed: str | None
    partition: str
    offset: str
    redelivered: bool
    lost: bool = True


async def browse(link: Link, queue: str, limit: int, foreign: Mapping[str, str]) -> Sequence[Seen]:
    """The first messages of a queue, in its order.

    They go back when the channel closes, all at once, so that their order stays; a quorum queue
    counts that as a delivery of each.

    Raises:
        BrokenError: no answer in time, or the connection is gone.
        RefusedError: the queue is missing, is another connection's alone, or has a single consumer.
    """
    found: list[Seen] = []

    async def keep(seen: Seen) -> bool:
        found.append(seen)
        return False

    await take(link, queue, limit, foreign, keep)
    return found


async def take(
    link: Link,
    queue: str,
    limit: int,
    foreign: Mapping[str, str],
    wanted: Callable[[Seen], Awaitable[bool]],
) -> None:
    """Acknowledge those that are wanted; the rest goes back when the channel closes, in order.

    Raises as `browse` does.
    """

    async def go_through(channel: Channel) -> None:
        for number in range(limit):
            delivered = await guarded(channel.basic_get(queue), RPC_SECONDS)
            if not isinstance(delivered.delivery, Basic.GetOk):
                return
            message, malformed = read(as_arrival(delivered), foreign)
            again = bool(delivered.delivery.redelivered)
            if await wanted(Seen(message, malformed, queue, str(number), again)):
                tag = delivered.delivery.delivery_tag or 0
                await guarded(channel.basic_ack(tag), RPC_SECONDS)

    await link.on_channel(go_through)
