"""Message <-> record: our own reading, and the CloudEvents SDK as a judge."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary_event,
    to_binary_event,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from eventbus.message import Message, identity_of
from eventbus_kafka.mapping import Mapper, headers_of, key_bytes, timestamp_of

MAPPER = Mapper("prod", {"legacy": "legacy.order-placed"})
PLAIN = Message(
    id="0198-1",
    type="shop.order-placed",
    source="/shop",
    topic="shop",
    payload=b'{"a":1}',
    key="t1/Ä 9",
    headers={
        "time": "2026-01-02T03:04:05.678901Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:eventbus:schema:shop.order-placed:2",
        "subject": "Äther",
        "native:traceparent": "00-1",
        "native:eventbus-dead-group": "billing",
    },
)
text = st.text(min_size=1, max_size=20).filter(lambda it: it.isprintable())


def read(
    message: Message, headers: Sequence[tuple[str, bytes | None]] | None = None, topic: str = "shop"
) -> tuple[Message, str | None]:
    found = headers_of(message) if headers is None else headers
    return MAPPER.read(topic, 3, 42, key_bytes(message), message.payload, found)


def test_a_message_reads_as_it_was_written() -> None:
    assert read(PLAIN) == (PLAIN, None)


@given(
    id=text,
    source=text,
    key=st.none() | st.text(max_size=20),
    payload=st.binary(max_size=50),
    headers=st.dictionaries(
        st.from_regex(r"x[a-z0-9]{0,18}", fullmatch=True) | st.just("native:X-Any"),
        st.text(max_size=30),
        max_size=6,
    ),
)
def test_any_message_reads_as_it_was_written(
    id: str, source: str, key: str | None, payload: bytes, headers: dict[str, str]
) -> None:
    message = Message(
        id=id, type="a.b", source=source, topic="shop", payload=payload, key=key, headers=headers
    )
    assert read(message) == (message, None)


def test_what_we_write_is_a_cloud_event_to_the_sdk() -> None:
    record = KafkaMessage(
        headers=dict(headers_of(PLAIN)), key=key_bytes(PLAIN), value=PLAIN.payload
    )
    event = from_binary_event(record, JSONFormat())
    assert event.get_id() == PLAIN.id
    assert event.get_source() == PLAIN.source
    assert event.get_type() == PLAIN.type
    assert event.get_specversion() == "1.0"
    assert event.get_time() == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_subject() == "Äther"
    assert event.get_extension("partitionkey") == PLAIN.key
    assert event.get_data() == {"a": 1}


def test_what_the_sdk_writes_reads_as_a_message() -> None:
    event = CloudEvent(
        {
            "id": "7",
            "source": "/elsewhere",
            "type": "shop.order-placed",
            "specversion": "1.0",
            "datacontenttype": "application/json",
            "partitionkey": "A-1",
            "subject": "Äther",
        },
        {"a": 1},
    )
    record = to_binary_event(event, JSONFormat())
    key = record.key.encode() if isinstance(record.key, str) else record.key
    message, malformed = MAPPER.read("shop", 0, 1, key, record.value, [*record.headers.items()])
    assert malformed is None
    assert (message.id, message.source, message.type) == ("7", "/elsewhere", "shop.order-placed")
    assert message.key == "A-1"
    assert message.headers["datacontenttype"] == "application/json"
    assert message.headers["subject"] == "Äther"
    assert message.payload == b'{"a": 1}'


def test_the_record_key_is_the_partition_key_and_the_attribute_stays() -> None:
    assert key_bytes(PLAIN) == "t1/Ä 9".encode()
    assert ("ce_partitionkey", "t1/Ä 9".encode()) in headers_of(PLAIN)


def test_the_content_type_is_a_header_without_prefix() -> None:
    names = [name for name, _ in headers_of(PLAIN)]
    assert "content-type" in names
    assert "ce_datacontenttype" not in names


def test_native_headers_go_as_they_are() -> None:
    assert ("eventbus-dead-group", b"billing") in headers_of(PLAIN)


def test_without_the_attribute_the_record_key_is_the_key() -> None:
    headers = [header for header in headers_of(PLAIN) if header[0] != "ce_partitionkey"]
    assert read(PLAIN, headers)[0].key == PLAIN.key


@pytest.mark.parametrize("case", [str.upper, str.title])
def test_prefixes_are_read_in_any_case(case: object) -> None:
    assert callable(case)
    headers = [(case(name), value) for name, value in headers_of(PLAIN) if name[:3] == "ce_"]
    message, malformed = read(PLAIN, headers)
    assert malformed is None
    assert message.headers["subject"] == "Äther"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("ce_id", None), "no ce_id"),
        (("ce_type", None), "no ce_type"),
        (("ce_source", b""), "empty"),
        (("ce_specversion", b"2.0"), "specversion '2.0'"),
        (("ce_subject", b"\xff"), "'subject' is no UTF-8"),
    ],
)
def test_a_broken_envelope_says_why_and_keeps_the_body(
    change: tuple[str, bytes | None], why: str
) -> None:
    name, value = change
    headers = [header for header in headers_of(PLAIN) if header[0] != name]
    if value is not None:
        headers.append((name, value))
    message, malformed = read(PLAIN, headers)
    assert malformed is not None
    assert why in malformed
    assert message.payload == PLAIN.payload
    assert message.id == "prod/shop/3/42"
    assert message.key == PLAIN.key


def test_an_attribute_that_comes_twice_is_refused() -> None:
    message, malformed = read(PLAIN, [*headers_of(PLAIN), ("ce_id", b"other")])
    assert malformed == "the attribute 'id' comes twice"
    assert message.payload == PLAIN.payload


def test_of_a_native_header_that_comes_twice_the_last_wins() -> None:
    message, malformed = read(PLAIN, [*headers_of(PLAIN), ("traceparent", b"00-2")])
    assert malformed is None
    assert message.headers["native:traceparent"] == "00-2"


@pytest.mark.parametrize("value", [None, b"\xff\xfe", b"a\0b"])
def test_native_headers_may_be_absent_or_binary(value: bytes | None) -> None:
    message, malformed = read(PLAIN, [*headers_of(PLAIN), ("x-raw", value)])
    assert malformed is None
    assert message.id == PLAIN.id
    assert isinstance(message.headers["native:x-raw"], str)


@pytest.mark.parametrize(
    "more", [[(f"x-{number}", b"") for number in range(80)], [("x-large", b"x" * 9000)]]
)
def test_headers_beyond_the_limits_are_malformed(more: list[tuple[str, bytes | None]]) -> None:
    message, malformed = read(PLAIN, [*headers_of(PLAIN), *more])
    assert malformed == "its headers exceed the limits"
    assert message.payload == PLAIN.payload


def test_a_tombstone_is_an_empty_body() -> None:
    message, malformed = MAPPER.read("shop", 0, 1, b"k", None, headers_of(PLAIN))
    assert malformed is None
    assert message.payload == b""


def test_a_foreign_record_of_a_mapped_topic_is_a_message() -> None:
    message, malformed = MAPPER.read("legacy", 3, 42, b"A-1", b"{}", [("X-Trace", b"1")])
    assert malformed is None
    assert message.type == "legacy.order-placed"
    assert message.id == "prod/legacy/3/42"
    assert message.source == "/kafka/prod/legacy"
    assert message.key == "A-1"
    assert message.headers == {"native:X-Trace": "1"}
    assert message.identity == identity_of("/kafka/prod/legacy", "prod/legacy/3/42")


def test_a_foreign_record_elsewhere_is_malformed() -> None:
    message, malformed = MAPPER.read("shop", 3, 42, b"\xff", b"{}", [])
    assert malformed == "no CloudEvents headers"
    assert message.key == "\\xff"


def test_a_cloud_event_in_a_mapped_topic_keeps_its_own_type() -> None:
    message, malformed = read(PLAIN, topic="legacy")
    assert malformed is None
    assert message.type == PLAIN.type


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(["ce_id", "CE_TYPE", "ce_source", "ce_specversion", "content-type"])
            | st.text(max_size=8),
            st.none() | st.binary(max_size=8),
        ),
        max_size=12,
    ),
    key=st.none() | st.binary(max_size=8),
    value=st.none() | st.binary(max_size=8),
)
def test_reading_never_raises(
    headers: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None
) -> None:
    message, malformed = MAPPER.read("shop", 0, 7, key, value, headers)
    assert message.payload == (value or b"")
    assert message.id
    assert malformed is None or malformed


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        ("2026-01-02T03:04:05.678901Z", 1767323045678),
        ("2026-01-02T03:04:05.999000Z", 1767323045999),
        ("2026-01-02T03:04:06.000001Z", 1767323046000),
        ("2026-01-02T04:04:05.678901+01:00", 1767323045678),
        ("2026-01-02T03:04:05Z", 1767323045000),
        ("2026-01-02T03:04:05", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_timestamp_of_the_record_is_the_time_of_the_event(
    time: str | None, milliseconds: int | None
) -> None:
    headers = {} if time is None else {"time": time}
    message = Message(id="1", type="a", source="/", topic="t", payload=b"", headers=headers)
    assert timestamp_of(message) == milliseconds
    assert timestamp_of(message) == milliseconds


STRUCTURED = ("content-type", b"application/cloudevents+json; charset=utf-8")
ENVELOPE = (
    b'{"specversion":"1.0","id":"1","source":"/s","type":"t","partitionkey":"K","data":{"n":1.10}}'
)


@pytest.mark.parametrize("topic", ["shop", "legacy"])
@pytest.mark.parametrize("more", [[], headers_of(PLAIN)[:4]])
def test_structured_mode_is_a_message_also_in_a_mapped_topic(
    topic: str, more: list[tuple[str, bytes]]
) -> None:
    headers = [STRUCTURED, *more, ("trace", b"x")]
    message, malformed = MAPPER.read(topic, 3, 42, b"other", ENVELOPE, headers)
    assert malformed is None
    assert message == Message(
        id="1",
        type="t",
        source="/s",
        topic=topic,
        payload=b'{"n":1.10}',
        key="K",
        headers={"native:trace": "x"},
    )


@pytest.mark.parametrize("value", [None, b"{", b'{"order": 1}'])
def test_a_broken_structured_envelope_is_malformed_also_in_a_mapped_topic(
    value: bytes | None,
) -> None:
    message, malformed = MAPPER.read("legacy", 3, 42, None, value, [STRUCTURED])
    assert malformed is not None
    assert "envelope" in malformed
    assert message.payload == (value or b"")
    assert message.headers["datacontenttype"] == STRUCTURED[1].decode()


def test_a_dead_letter_of_a_structured_envelope_is_read_by_its_headers() -> None:
    headers = [STRUCTURED, *headers_of(PLAIN)[:4]]
    message, malformed = MAPPER.read("shop.billing.dlq", 3, 42, None, b"{", headers)
    assert malformed is None
    assert (message.id, message.payload) == (PLAIN.id, b"{")
