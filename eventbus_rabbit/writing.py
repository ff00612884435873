"""A batch of messages -> one socket write on the client's channel.

The client offers one message per call, three times as slow. The names of it used here are public,
but documented nowhere: `proven` tries them out at start, and `write_singly` is the way without.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast

from aiormq.abc import AbstractChannel, AbstractConnection as Wire, ChannelFrame
from aiormq.channel import Channel
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.constants import FRAME_BODY, FRAME_END_CHAR, FRAME_HEADER
from pamqp.header import ContentHeader
from struct import Struct

from eventbus_rabbit.connection import RPC_SECONDS, Link, close_channel
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded, understood

log: logging.Logger = logging.getLogger("eventbus.rabbit")

BATCH_BYTES = 4 << 20
CACHED = 4096
_FRAME = Struct(">BHI")


class Frames:
    """Marshals for one channel; `Basic.Publish` of each address only once."""

    __slots__ = ("_body_size", "_number", "_publish")

    def __init__(self, number: int, body_size: int) -> None:
        self._number = number
        self._body_size = body_size
        self._publish: dict[tuple[tuple[str, str], bool], bytes] = {}

    def of(self, item: "Sendable") -> list[bytes]:
        """Method, header, and as many body frames as it takes: none for an empty body."""
        address = (item.address, item.mandatory)
        method = self._publish.get(address) or self._method(address)
        header, body, number = item.header, item.body, self._number
        parts = [method, _FRAME.pack(FRAME_HEADER, number, len(header)), header, FRAME_END_CHAR]
        if 0 < len(body) <= self._body_size:
            parts += (_FRAME.pack(FRAME_BODY, number, len(body)), body, FRAME_END_CHAR)
        else:
            for start in range(0, len(body), self._body_size):
                piece = body[start : start + self._body_size]
                parts += (_FRAME.pack(FRAME_BODY, number, len(piece)), piece, FRAME_END_CHAR)
        return parts

    def _method(self, address: tuple[tuple[str, str], bool]) -> bytes:
        (exchange, routing_key), mandatory = address
        if len(self._publish) >= CACHED:
            self._publish.clear()
        publish = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        self._publish[address] = marshalled = frame.marshal(publish, self._number)
        return marshalled


class LaneLike(Protocol):
    """A channel with its frames."""

    @property
    def channel(self) -> Channel: ...
    @property
    def frames(self) -> Frames: ...


class Sendable(Protocol):
    """What is written, and told what became of it."""

    @property
    def id(self) -> str: ...
    @property
    def address(self) -> tuple[str, str]: ...
    @property
    def mandatory(self) -> bool: ...
    @property
    def header(self) -> bytes: ...
    @property
    def body(self) -> bytes: ...
    @property
    def sender(self) -> LaneLike | None: ...
    def set_result(self, frame: object) -> None: ...
    def set_exception(self, error: BaseException) -> None: ...


Write = Callable[[Wire, Sequence[Sendable]], Awaitable[None]]


async def write_batch(wire: Wire, batch: Sequence[Sendable]) -> None:
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


async def write_singly(wire: Wire, batch: Sequence[Sendable]) -> None:
    """The same through the documented call."""
    sent = [asyncio.ensure_future(_publish(item)) for item in batch]
    try:
        await asyncio.sleep(0)
    finally:
        del sent


async def _publish(item: Sendable) -> None:
    lane = item.sender
    if lane is None:
        return
    exchange, routing_key = item.address
    header = ContentHeader()
    header.unmarshal(item.header)
    try:
        item.set_result(
            await lane.channel.basic_publish(
                item.body,
                exchange=exchange,
                routing_key=routing_key,
                properties=header.properties,
                mandatory=item.mandatory,
                wait=False,
            )
        )
    except Exception as error:
        item.set_exception(error)
