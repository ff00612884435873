"""A batch of messages -> one socket write on the client's channels.

The client offers one message per call, three times as slow. The names of it used here are public,
but documented nowhere: `proven` tries them out at start, and `write_singly` is the way without.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from aiormq.abc import AbstractConnection as Wire
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp.header import ContentHeader

from eventbus.errors import Confirmed, Rejected
from eventbus.message import Message
from eventbus_rabbit.connection import RPC_SECONDS, Link, close_channel
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded
from eventbus_rabbit.flight import Call, Item, Lane

log: logging.Logger = logging.getLogger("eventbus.rabbit")

Write = Callable[[Wire, Sequence[Item]], Awaitable[None]]


async def write_batch(wire: Wire, batch: Sequence[Item]) -> None:
    """One write for all of it, whatever the channels; returns when the socket took it.

    The sender is the only publisher on these channels, so tags are counted without their lock.
    """
    parts: list[bytes] = []
    for item in batch:
        lane = item.sender
        if lane is None:
            continue
        channel = lane.channel
        channel.delivery_tag = tag = channel.delivery_tag + 1
        channel.confirmations[tag] = cast("asyncio.Future[Any]", item)
        channel.message_id_delivery_tag[item.id] = tag
        parts += lane.frames.of(item)
    drained = asyncio.get_running_loop().create_future()
    await wire.write_queue.put(ChannelFrame(b"".join(parts), False, drained))
    await drained


async def write_singly(wire: Wire, batch: Sequence[Item]) -> None:
    """The same through the documented call; returns when all of it is confirmed."""
    for item in batch:
        item.task = asyncio.create_task(_publish(item), name="rabbit:confirm")
    tasks = [item.task for item in batch if item.task is not None]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _publish(item: Item) -> None:
    lane = item.sender
    if lane is None:
        return
    exchange, routing_key = item.address
    header = ContentHeader()
    header.unmarshal(item.header)
    try:
        frame = await lane.channel.basic_publish(
            item.body,
            exchange=exchange,
            routing_key=routing_key,
            properties=header.properties,
            mandatory=item.mandatory,
            wait=False,
        )
    except Exception as error:  # returned, refused, lost: the item knows which
        item.set_exception(error)
    else:
        item.set_result(frame)


async def proven(link: Link) -> bool:
    """Whether `write_batch` works with this client and broker: four arrive, one is returned."""
    try:
        wire = await link.wire()
        channel = await link.channel(wire, confirms=True)
        try:
            return await _try_out(wire, channel)
        finally:
            await close_channel(channel)
    except (BrokenError, RefusedError) as error:
        log.warning("publishing message by message: writing in batches was not proven: %s", error)
        return False


async def _try_out(wire: Wire, channel: Channel) -> bool:
    declared = await guarded(channel.queue_declare(exclusive=True), RPC_SECONDS)
    queue = declared.queue or ""
    call = Call(5, 0.0, asyncio.get_running_loop().create_future())
    lane = Lane(channel, lambda: None)
    for place in range(5):
        message = Message(
            id=f"{queue}:{place}", type="probe", source="/eventbus", topic="probe", payload=b"?"
        )
        item = Item(call, place, message, mandatory=True)
        item.address = ("", f"{queue}:nobody" if place == 2 else queue)
        lane.take(item)
    await guarded(write_batch(wire, list(lane.open.values())), RPC_SECONDS)
    await guarded(call.done, RPC_SECONDS)
    await guarded(channel.queue_delete(queue), RPC_SECONDS)
    wanted = [Confirmed, Confirmed, Rejected, Confirmed, Confirmed]
    return [type(result) for result in call.results] == wanted
