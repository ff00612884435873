"""AMQP frames of a message, marshalled before they are written."""

from struct import Struct
from typing import Protocol

from pamqp import frame
from pamqp.commands import Basic
from pamqp.constants import FRAME_BODY, FRAME_END_CHAR, FRAME_HEADER

CACHED = 4096
_FRAME = Struct(">BHI")


class Framed(Protocol):
    """What is sent; `address` is exchange and routing key, `header` a whole content header."""

    address: tuple[str, str]
    mandatory: bool
    header: bytes
    body: bytes


class Frames:
    """Marshals for one channel; `Basic.Publish` of each address only once."""

    __slots__ = ("_body_size", "_number", "_publish")

    def __init__(self, number: int, body_size: int) -> None:
        self._number = number
        self._body_size = body_size
        self._publish: dict[tuple[tuple[str, str], bool], bytes] = {}

    def of(self, item: "Framed") -> list[bytes]:
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
