"""Frames are sorted: deliveries go to their taker, the rest is the client's, untouched."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from eventbus_rabbit.arrival import Arrival
from eventbus_rabbit.reading import FrameReader, Taker

OURS, OTHER = 3, 4
HEADERS: dict[str, Any] = {"ce-id": "1", "ce-type": "shop.placed", "größe": "ä" * 200}
ODD: list[dict[str, Any]] = [
    {"headers": {"x-delivery-count": 2, "ce-id": "1"}},
    {"headers": {"x-death": [{"count": 1, "queue": "q"}], "raw": bytearray(b"\xff\xfe")}},
    {"headers": {"at": datetime(2026, 1, 2, tzinfo=UTC), "yes": True, "none": None}},
    {"content_encoding": "gzip", "headers": {"ce-id": "1"}},
    {"headers": {}},
    {},
]
ORDINARY: dict[str, Any] = {
    "content_type": "application/json",
    "headers": HEADERS,
    "delivery_mode": 2,
    "message_id": "1",
    "message_type": "shop.placed",
    "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
}


class Came:
    """A reader, what its taker was given, and what is left for the client."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.reader = FrameReader()
        self.taker = Taker(self.arrivals.append)
        self.reader.give(OURS, self.taker)

    def feed(self, written: bytes, *, by: int = 1 << 20) -> "Came":
        for start in range(0, len(written), by):
            self.reader.feed_data(written[start : start + by])
        return self

    async def rest(self) -> bytes:
        """Without the signs of life."""
        self.reader.feed_eof()
        self.reader.feed_eof()  # as the loop does: at the end, and when the connection is lost
        return (await self.reader.read()).replace(Heartbeat().marshal(), b"")


def delivery(
    body: bytes = b"{}", *, number: int = OURS, tag: int = 1, size: int = 100, **properties: Any
) -> bytes:
    sent = Basic.Deliver("ctag", tag, tag % 2 == 0, "shop", "shop.placed")
    return content(sent, body, number, size, properties)


def content(method: Any, body: bytes, number: int, size: int, properties: dict[str, Any]) -> bytes:
    header = ContentHeader(body_size=len(body), properties=Basic.Properties(**properties))
    pieces = [ContentBody(body[start : start + size]) for start in range(0, len(body), size)]
    return b"".join(frame.marshal(each, number) for each in (method, header, *pieces))


@given(by=st.integers(1, 400), bodies=st.lists(st.binary(max_size=350), min_size=1, max_size=5))
async def test_deliveries_arrive_whole_wherever_they_are_cut(by: int, bodies: list[bytes]) -> None:
    came, others = Came(), b""
    written = b""
    for tag, body in enumerate(bodies, 1):
        other = delivery(body, number=OTHER, tag=tag) + frame.marshal(Basic.Ack(tag), OURS)
        written += delivery(body, tag=tag, **ORDINARY) + other
        others += other
    came.feed(written, by=by)
    assert [each.body for each in came.arrivals] == bodies
    assert [each.tag for each in came.arrivals] == list(range(1, len(bodies) + 1))
    assert [each.redelivered for each in came.arrivals] == [
        tag % 2 == 0 for tag in range(1, len(bodies) + 1)
    ]
    assert await came.rest() == others


@pytest.mark.parametrize("properties", [ORDINARY, *ODD], ids=str)
async def test_properties_are_what_the_client_reads(properties: dict[str, Any]) -> None:
    (arrival,) = Came().feed(delivery(**properties)).arrivals
    expected = Basic.Properties(**properties)
    assert (arrival.exchange, arrival.routing_key) == ("shop", "shop.placed")
    assert arrival.properties.content_type == expected.content_type
    assert arrival.properties.headers == (expected.headers or {})
    assert arrival.properties.message_id == expected.message_id
    assert arrival.properties.message_type == expected.message_type


async def test_content_that_is_no_delivery_stays_with_the_client() -> None:
    returned = content(Basic.Return(312, "NO_ROUTE", "shop", "x"), b"body", OURS, 100, ORDINARY)
    got = content(Basic.GetOk(1, False, "shop", "x", 0), b"body", OURS, 100, ORDINARY)
    came = Came().feed(returned + delivery() + got)
    assert len(came.arrivals) == 1
    assert await came.rest() == returned + got


async def test_a_method_in_mid_delivery_ends_it() -> None:
    sent = frame.marshal(Basic.Deliver("ctag", 1, False, "shop", "shop.placed"), OURS)
    cancel = frame.marshal(Basic.Cancel("ctag", True), OURS)
    came = Came().feed(sent + cancel + delivery(tag=2))
    assert [each.tag for each in came.arrivals] == [2]
    assert await came.rest() == cancel


async def test_a_channel_without_a_taker_is_the_clients() -> None:
    came = Came()
    came.reader.keep(OURS, Taker(came.arrivals.append))  # of an older channel with this number
    came.feed(delivery())
    came.reader.keep(OURS, came.taker)
    assert await came.feed(delivery(tag=2)).rest() == delivery(tag=2)
    assert len(came.arrivals) == 1


@pytest.mark.parametrize("strange", [b"AMQP\x00\x00\x09\x01", b"\x01\x00\x03\x00\x00\x00\x01x?"])
async def test_what_is_no_frame_is_left_to_the_client_with_all_that_follows(strange: bytes) -> None:
    came = Came().feed(delivery() + strange + delivery(), by=7)
    assert len(came.arrivals) == 1
    assert await came.rest() == strange + delivery()


async def test_the_client_sees_a_sign_of_life_while_only_deliveries_come() -> None:
    came = Came().feed(delivery())
    came.reader.feed_eof()
    assert await came.reader.read() == Heartbeat().marshal()


async def test_the_end_in_mid_frame_is_told_with_what_there_was() -> None:
    written = delivery()
    assert await Came().feed(written[:-1]).rest() == written[-10:-1]
