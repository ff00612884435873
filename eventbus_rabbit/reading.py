"""Deliveries are read here, not by the client, which takes several times as long for each.

The client reads what a factory of ours gives it, an `asyncio.StreamReader`. This one sorts frames:
deliveries of a channel that has a taker go there, whole; all else is the client's, byte for byte.
"""

import asyncio
import ssl
from collections.abc import Iterable
from struct import Struct
from typing import Any, Protocol, SupportsIndex

import aio_pika
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.constants import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD
from pamqp.heartbeat import Heartbeat

from eventbus_rabbit.arrival import DELIVER, Arrival, arrival_of

SIGN_SECONDS = 1.0
_FRAME, _SIZE = Struct(">BHI"), Struct(">Q")
_KINDS = frozenset((FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT))
_AROUND = _FRAME.size + 1  # what a frame has beside its payload
_SIGN = Heartbeat().marshal()


class Takes(Protocol):
    """Who is given the messages of a channel."""

    def __call__(self, arrival: Arrival, /) -> None:
        """At once, and without raising: the socket waits."""


class Taker:
    """Puts the deliveries of one channel together: method, header, bodies, in this order."""

    __slots__ = ("_body", "_header", "_missing", "_sent", "_take")

    def __init__(self, take: Takes) -> None:
        self._take = take
        self._sent: bytes | None = None  # the method of a delivery that is not whole yet
        self._header = b""
        self._body = b""
        self._missing = 0

    def wants(self, kind: int, payload: bytes) -> bool:
        """Whether this frame is part of a delivery; then it is taken."""
        if kind == FRAME_METHOD:
            is_delivery = payload.startswith(DELIVER)
            self._sent = payload if is_delivery else None
            return is_delivery
        if self._sent is None:
            return False  # content of something else
        if kind == FRAME_HEADER:
            self._header, self._body = payload, b""
            (self._missing,) = _SIZE.unpack_from(payload, 4)
        else:
            self._body = self._body + payload if self._body else payload
            self._missing -= len(payload)
        if self._missing <= 0:
            sent, self._sent = self._sent, None
            self._take(arrival_of(sent, self._header, self._body))
        return True


class FrameReader(asyncio.StreamReader):
    """Sorts what the broker sends, until something comes that is no frame."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, Taker] = {}
        self._rest = b""  # the beginning of a frame
        self._is_strange = False
        self._sign_due = 0.0
        self._clock = asyncio.get_running_loop().time

    def give(self, number: int, taker: Taker) -> None:
        """Deliveries of this channel go there from now on."""
        self._takers[number] = taker

    def keep(self, number: int, taker: Taker) -> None:
        """No more; harmless when the channel has another one by now."""
        if self._takers.get(number) is taker:
            del self._takers[number]

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Whole frames only, so that the next one begins at the beginning."""
        if self._is_strange:
            super().feed_data(data)
            return
        data = self._rest + bytes(data)
        kept = at = 0  # from `kept` to `at`: the client's
        end, takers = len(data), self._takers
        while at + _AROUND <= end:
            kind, number, size = _FRAME.unpack_from(data, at)
            after = at + _AROUND + size
            if kind not in _KINDS:
                self._is_strange = True
            elif after > end:
                break
            elif data[after - 1] != FRAME_END:
                self._is_strange = True
            if self._is_strange:
                self._rest = b""
                super().feed_data(data[kept:])
                return
            taker = takers.get(number)
            if taker is not None and taker.wants(kind, data[at + _FRAME.size : after - 1]):
                if at > kept:
                    super().feed_data(data[kept:at])
                kept = after
            at = after
        self._rest = data[at:]
        if at > kept:
            super().feed_data(data[kept:at])
        elif at:
            self._give_a_sign()

    def _give_a_sign(self) -> None:
        """The broker sends no heartbeat while it sends deliveries, and the client sees none."""
        now = self._clock()
        if now >= self._sign_due:
            self._sign_due = now + SIGN_SECONDS
            super().feed_data(_SIGN)

    def feed_eof(self) -> None:
        """With what came last, for the client says how much is missing."""
        rest, self._rest = self._rest, b""
        if rest:
            super().feed_data(rest)
        super().feed_eof()


class _Factory(TransportFactory):
    """Connects as the client does, with a reader of ours."""

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader

    async def create(
        self, url: Any, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Over TLS if the address says so."""
        provider = kwargs.pop("ssl_context_provider", None)
        context: ssl.SSLContext | None = None
        if url.scheme == "amqps" and provider is not None:
            context = await provider.get_context()
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host, url.port, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return self._reader, asyncio.StreamWriter(transport, protocol, self._reader, loop)


class Connection(aio_pika.Connection):
    """The client's, reading through a `FrameReader`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frames = FrameReader()
        self.kwargs["transport_factory"] = _Factory(self.frames)
