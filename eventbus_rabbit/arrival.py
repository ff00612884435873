"""A message as it came: the parts of a delivery that we look at, read from its frames."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

DELIVER = Basic.Deliver.index.to_bytes(4, "big")

_TAG, _FLAGS, _SIZE = Struct(">QB"), Struct(">H"), Struct(">I")
_FLAGS_AT = 12  # class, weight, size of the body
_CONTENT_TYPE, _ENCODING, _HEADERS, _MORE = 1 << 15, 1 << 14, 1 << 13, 1
_LONG_STRING = ord("S")
_NAME_BYTES, _CACHED = 64, 1024


class Properties:
    """Of a message; what is rarely asked for is read when it is."""

    content_type: str | None = None
    headers: Mapping[str, object]

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        try:
            self._read()
        except (_OtherError, IndexError, UnicodeDecodeError, StructError):
            whole = self._whole
            self.content_type, self.headers = whole.content_type, whole.headers or {}

    @property
    def message_id(self) -> str | None:
        """As the writer had it."""
        return self._whole.message_id

    @property
    def message_type(self) -> str | None:
        """As the writer had it."""
        return self._whole.message_type

    @cached_property
    def _whole(self) -> Basic.Properties:
        """By the client, which knows all types of values.

        Raises:
            ValueError: it is no content header.
        """
        header = ContentHeader()
        header.unmarshal(self._payload)
        return header.properties

    def _read(self) -> None:
        """Content type and headers, where all values are texts: as we and most others write."""
        payload = self._payload
        (flags,) = _FLAGS.unpack_from(payload, _FLAGS_AT)
        if flags & (_ENCODING | _MORE):
            raise _OtherError
        at = _FLAGS_AT + 2
        if flags & _CONTENT_TYPE:
            after = at + 1 + payload[at]
            self.content_type = str(payload[at + 1 : after], "utf-8")
            at = after
        headers = dict[str, object]()
        if flags & _HEADERS:
            (size,) = _SIZE.unpack_from(payload, at)
            at += 4
            end = at + size
            while at < end:
                start = at + 1 + payload[at]
                name = _name(payload[at + 1 : start])
                if payload[start] != _LONG_STRING:
                    raise _OtherError
                (size,) = _SIZE.unpack_from(payload, start + 1)
                at = start + 5 + size
                headers[name] = str(payload[start + 5 : at], "utf-8")
            if at != end or end > len(payload):
                raise _OtherError
        self.headers = headers


class _OtherError(Exception):
    """A value that is no text."""


class Arrival:
    """One message of a queue, however it was read."""

    __slots__ = ("body", "exchange", "properties", "redelivered", "routing_key", "tag")

    def __init__(
        self,
        tag: int,
        redelivered: bool,
        address: tuple[str, str],
        properties: Properties | Basic.Properties,
        body: bytes,
    ) -> None:
        self.tag = tag
        self.redelivered = redelivered
        self.exchange, self.routing_key = address
        self.properties = properties
        self.body = body


def arrival_of(method: bytes, header: bytes, body: bytes) -> Arrival:
    """Of the payloads of its frames.

    Raises:
        ValueError: they are not what AMQP says.
    """
    at = 5 + method[4]  # behind the tag of the consumer
    tag, redelivered = _TAG.unpack_from(method, at)
    address = _address(method[at + _TAG.size :])
    return Arrival(tag, bool(redelivered & 1), address, Properties(header), body)


def as_arrival(delivered: DeliveredMessage) -> Arrival:
    """Of what the client has read."""
    sent = delivered.delivery
    address = (delivered.exchange or "", delivered.routing_key or "")
    redelivered = bool(getattr(sent, "redelivered", False))
    tag = getattr(sent, "delivery_tag", None) or 0
    return Arrival(tag, redelivered, address, delivered.header.properties, delivered.body)


@lru_cache(maxsize=_CACHED)
def _address(raw: bytes) -> tuple[str, str]:
    """Exchange and routing key: two short strings."""
    size = raw[0]
    return str(raw[1 : 1 + size], "utf-8"), str(raw[2 + size : 2 + size + raw[1 + size]], "utf-8")


@lru_cache(maxsize=_CACHED)
def _name(raw: bytes) -> str:
    return str(raw, "utf-8")
