"""Typed messages to bytes and back: nothing is guessed, nothing hostile gets through."""

from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import pytest
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Event, Untyped, upcast
from eventbus.codec import (
    MAX_DEPTH,
    Encoder,
    Registry,
    decode_untyped,
    own_attributes,
    plan_of,
)
from eventbus.errors import CodecError, DecodeError, LimitError, UnknownTypeError, WiringError
from eventbus.message import NO_HEADERS, Message, new_id, own_key


class Country(StrEnum):
    UK = "UK"


class Placed(Event, type="codec.placed", key="order"):
    order: UUID
    price: Decimal
    on: date
    note: str = ""
    tags: tuple[str, ...] = ()


class Renamed(Event, type="codec.renamed", version=3, key="order_id"):
    order_id: str
    cents: int
    country: Country = Country.UK

    @staticmethod
    @upcast(1)
    def from_first(raw: dict[str, Any]) -> dict[str, Any]:
        return {**raw, "order_id": raw.pop("order")}

    @staticmethod
    @upcast(2)
    def from_second(raw: dict[str, Any]) -> dict[str, Any]:
        return {**raw, "cents": int(raw.pop("euros")) * 100}


encoder = Encoder("/tests", max_body=1 << 20)
registry = Registry([Placed, Renamed])


def stored(type: str, payload: bytes, **headers: str) -> Message:
    return Message(
        id=new_id(), type=type, source="/tests", topic="codec", payload=payload, headers=headers
    )


@given(
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.dates(),
    st.text(),
    st.lists(st.text()).map(tuple),
)
def test_what_is_written_is_read_back(
    order: UUID, price: Decimal, on: date, note: str, tags: tuple[str, ...]
) -> None:
    event = Placed(order=order, price=price, on=on, note=note, tags=tags)
    message = encoder.typed(event, NO_HEADERS, None)
    assert registry.decode(message) == event
    assert message.key == str(order)
    assert message.headers["dataschema"] == "urn:eventbus:schema:codec.placed:1"


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text(), st.lists)))
def test_untyped_data_are_read_back(data: dict[str, Any]) -> None:
    message = encoder.untyped("codec.any", data, "K", NO_HEADERS, None)
    assert decode_untyped(message) == Untyped("codec.any", data)


@given(st.binary(max_size=200), st.sampled_from(["", "urn:eventbus:schema:codec.renamed:1", "x:9"]))
def test_no_bytes_raise_anything_but_a_codec_error(payload: bytes, schema: str) -> None:
    headers = {"dataschema": schema} if schema else {}
    for name in ("codec.placed", "codec.renamed", "codec.unknown", "os.system"):
        with suppress(CodecError):
            registry.decode(stored(name, payload, **headers))


@pytest.mark.parametrize("body", [b"{}", b'{"order": 1, "euros": "many"}', b'{"order": "A-1"}'])
def test_an_upcaster_that_fails_is_a_decode_error(body: bytes) -> None:
    message = stored("codec.renamed", body, dataschema="urn:eventbus:schema:codec.renamed:1")
    with pytest.raises(DecodeError) as caught:
        registry.decode(message)
    assert caught.value.code == "EB3102"


@pytest.mark.parametrize("version", ["1", None])
def test_older_versions_go_through_the_chain_of_upcasters(version: str | None) -> None:
    schema = (
        {} if version is None else {"dataschema": f"urn:eventbus:schema:codec.renamed:{version}"}
    )
    message = stored("codec.renamed", b'{"order": "A-1", "euros": 5}', **schema)
    assert registry.decode(message) == Renamed(order_id="A-1", cents=500)


def test_a_newer_version_is_not_guessed() -> None:
    message = stored("codec.renamed", b"{}", dataschema="urn:eventbus:schema:codec.renamed:4")
    with pytest.raises(DecodeError) as caught:
        registry.decode(message)
    assert caught.value.code == "EB3101"


def test_an_unknown_type_is_never_imported() -> None:
    with pytest.raises(UnknownTypeError) as caught:
        registry.decode(stored("tests.unit.words.test_codec.Placed", b"{}"))
    assert caught.value.code == "EB3103"


def test_an_error_names_paths_and_never_values() -> None:
    message = stored("codec.placed", b'{"order": "s3cret", "price": "s3cret", "on": "s3cret"}')
    with pytest.raises(DecodeError) as caught:
        registry.decode(message)
    assert "s3cret" not in str(caught.value)
    assert "price: decimal_parsing" in caught.value.why


def test_data_nested_too_deep_are_refused() -> None:
    body = b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)
    with pytest.raises(LimitError) as caught:
        decode_untyped(stored("codec.deep", body))
    assert caught.value.code == "EB3003"
    with pytest.raises(CodecError):
        decode_untyped(stored("codec.deep", b"[" * 100_000))


def test_keys_of_all_kinds_become_text() -> None:
    class ByCountry(Event, type="codec.by-country", key="country"):
        country: Country | int | None

    assert encoder.typed(ByCountry(country=Country.UK), NO_HEADERS, None).key == "UK"
    assert encoder.typed(ByCountry(country=7), NO_HEADERS, None).key == "7"
    assert encoder.typed(ByCountry(country=None), NO_HEADERS, None).key is None


def test_the_tenant_leads_the_key_and_cannot_be_changed_on_the_way() -> None:
    event = Renamed(order_id="A-1", cents=1)
    first = encoder.typed(event, {"tenant": "t1"}, None)
    assert first.key == "t1/A-1"
    assert encoder.typed(event, NO_HEADERS, first).key == "t1/A-1"
    with pytest.raises(LimitError):
        encoder.typed(event, {"tenant": "t2"}, first)


@pytest.mark.parametrize("value", ["\0", "\ud800", 7])
def test_header_values_are_text_that_every_store_takes(value: Any) -> None:
    with pytest.raises(LimitError):
        encoder.typed(Renamed(order_id="A", cents=1), {"note": value}, None)


def test_headers_are_bounded_in_number_and_size() -> None:
    event = Renamed(order_id="A", cents=1)
    with pytest.raises(LimitError):
        encoder.typed(event, {f"h{number}": "" for number in range(65)}, None)
    with pytest.raises(LimitError):
        encoder.typed(event, {"h": "x" * 9000}, None)


def test_a_class_without_a_type_cannot_travel() -> None:
    class Base(Event):
        pass

    with pytest.raises(WiringError):
        encoder.typed(Base(), NO_HEADERS, None)
    assert plan_of(Placed) is plan_of(Placed)


def test_data_that_are_no_json_are_refused_when_published() -> None:
    with pytest.raises(LimitError) as caught:
        encoder.untyped("codec.any", {"a": object()}, None, NO_HEADERS, None)
    assert caught.value.code == "EB3004"
    with pytest.raises(WiringError):
        encoder.untyped("nodot", {}, None, NO_HEADERS, None)


def test_the_attributes_are_cloudevents_in_the_eyes_of_its_sdk() -> None:
    message = encoder.typed(Renamed(order_id="A-1", cents=1), {"tenant": "t1"}, None)
    attributes: dict[str, Any] = own_attributes(message)
    attributes["time"] = datetime.fromisoformat(attributes["time"])
    event = CloudEvent(attributes, message.payload)
    assert event.get_id() == message.id
    assert event.get_type() == "codec.renamed"
    assert event.get_time() == attributes["time"]
    assert attributes["time"].tzinfo == UTC
    assert event.get_extension("partitionkey") == "t1/A-1"


def test_ids_rise_within_a_process_and_are_uuids_of_version_7() -> None:
    ids = [new_id() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {UUID(text).version for text in ids} == {7}


def test_foreign_ids_are_the_same_per_source_only() -> None:
    def foreign(source: str, id: str) -> Message:
        return Message(id=id, type="a.b", source=source, topic="a", payload=b"")

    assert foreign("/a", "1").identity == foreign("/a", "1").identity
    assert foreign("/a", "1").identity != foreign("/b", "1").identity
    own = uuid4()
    assert foreign("/a", str(own)).identity == own
    assert own_key(foreign("/a", str(own))) == f"\x01{own}"


@pytest.mark.parametrize(
    ("type", "version", "payload"),
    [
        ("codec.renamed", 2, b'{"order_id": "A"}'),  # of another version: its upcasters read it
        ("codec.renamed", 0, b'{"order_id": "A"}'),  # whose version only the header knows
        ("codec.unknown", 1, b"{}"),
        ("codec.renamed", 3, b'{"order_id": []}'),  # does not validate: decode says why
    ],
)
def test_what_is_not_of_the_current_version_is_left_to_decode(
    type: str, version: int, payload: bytes
) -> None:
    assert Registry([Renamed]).current(type, version, payload) is None


def test_a_body_of_the_current_version_is_read_without_its_headers() -> None:
    message = encoder.typed(Renamed(order_id="A", cents=5), NO_HEADERS, None)
    found = registry.current("codec.renamed", 3, message.payload)
    assert found == registry.decode(message) == Renamed(order_id="A", cents=5)
