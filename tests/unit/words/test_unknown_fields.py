"""Weak classes ignore unknown fields, strict ones refuse them; also behind an upcaster."""

from typing import Any

import pytest

from eventbus.codec import Registry
from eventbus.errors import DecodeError
from eventbus.event import Event, upcast
from eventbus.message import Message, new_id


class Weak(Event, type="shop.weak"):
    order: str


class Strict(Event, type="shop.strict", version=5, extra="forbid"):
    first: str
    last: str
    cents: int
    currency: str

    @staticmethod
    @upcast(1)
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        return {"cents": data["price"], **{k: v for k, v in data.items() if k != "price"}}

    @staticmethod
    @upcast(2)
    def split(data: dict[str, Any]) -> dict[str, Any]:
        first, _, last = data["name"].partition(" ")
        return {"first": first, "last": last, **{k: v for k, v in data.items() if k != "name"}}

    @staticmethod
    @upcast(3)
    def drop(data: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in data.items() if name != "fax"}

    @staticmethod
    @upcast(4)
    def default(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "currency": "EUR"}


def message(type: str, version: int, payload: bytes) -> Message:
    return Message(
        id=new_id(),
        type=type,
        source="/shop",
        topic="shop",
        payload=payload,
        key=None,
        headers={"dataschema": f"urn:eventbus:schema:{type}:{version}"},
    )


def test_a_weak_class_ignores_what_it_does_not_know() -> None:
    read = Registry([Weak]).decode(message("shop.weak", 1, b'{"order": "A-1", "new": 1}'))
    assert read == Weak(order="A-1")


def test_a_strict_class_refuses_it_by_name_and_without_its_value() -> None:
    body = b'{"first":"A","last":"B","cents":1,"currency":"EUR","iban":"secret"}'
    with pytest.raises(DecodeError) as caught:
        Registry([Strict]).decode(message("shop.strict", 5, body))
    assert caught.value.code == "EB3102"
    assert caught.value.why == "iban: extra_forbidden"
    assert "secret" not in str(caught.value)


def test_rename_split_drop_and_default_are_chained() -> None:
    body = b'{"name": "Ada King", "price": 7, "fax": "0"}'
    read = Registry([Strict]).decode(message("shop.strict", 1, body))
    assert read == Strict(first="Ada", last="King", cents=7, currency="EUR")


def test_a_strict_class_refuses_what_an_upcaster_left_behind() -> None:
    body = b'{"name": "Ada King", "price": 7, "fax": "0", "telex": "1"}'
    with pytest.raises(DecodeError, match="telex: extra_forbidden"):
        Registry([Strict]).decode(message("shop.strict", 1, body))
