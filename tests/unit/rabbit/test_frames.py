"""Frames marshalled by hand are those the client would write."""

from dataclasses import dataclass

import pytest
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from eventbus_rabbit.frames import CACHED, Frames


@dataclass
class Sent:
    address: tuple[str, str]
    mandatory: bool
    header: bytes
    body: bytes


def an_item(body: bytes, *, routing_key: str = "shop.placed") -> Sent:
    header = ContentHeader(
        body_size=len(body), properties=Basic.Properties(message_id="1", delivery_mode=2)
    )
    return Sent(("shop", routing_key), True, header.marshal(), body)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 250])
def test_a_body_has_as_many_frames_as_it_needs(size: int) -> None:
    body = bytes(range(256))[:size]
    item = an_item(body)
    written = b"".join(Frames(7, 100).of(item))
    publish = Basic.Publish(exchange="shop", routing_key="shop.placed", mandatory=True)
    pieces = [ContentBody(body[start : start + 100]) for start in range(0, size, 100)]
    header = ContentHeader()
    header.unmarshal(item.header)
    expected = frame.marshal(publish, 7) + frame.marshal(header, 7)
    expected += b"".join(frame.marshal(piece, 7) for piece in pieces)
    assert written == expected


def test_what_is_remembered_is_bounded() -> None:
    frames = Frames(1, 100)
    for number in range(CACHED + 10):
        frames.of(an_item(b"", routing_key=f"t.{number}"))
    assert len(frames._publish) <= CACHED
