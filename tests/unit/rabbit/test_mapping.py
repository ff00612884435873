"""CloudEvents in AMQP headers: ours read by others, others read by us, nothing lost."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from cloudevents.core.bindings.rabbitmq import (
    RabbitMQMessage,
    from_binary,
    from_rabbitmq_event,
    to_binary,
    to_structured,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.commands import Basic
from pamqp.constants import FRAME_END_CHAR, FRAME_HEADER
from pamqp.header import ContentHeader

from eventbus.message import Message
from eventbus_rabbit.arrival import Arrival, Properties, as_arrival
from eventbus_rabbit.mapping import (
    address_of,
    binding_key,
    content_header,
    is_among,
    message_id_of,
    read,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
NAME = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: name not in {"specversion", "id", "type", "source", "partitionkey"}
)
HEADERS = st.dictionaries(NAME.filter(lambda name: name != "datacontenttype"), TEXT, max_size=8)
WORD = TEXT.filter(bool)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    native = draw(
        st.dictionaries(st.from_regex(r"[A-Za-z][A-Za-z0-9]{3,10}", fullmatch=True), TEXT)
    )
    return Message(
        id=draw(WORD),
        type=draw(WORD),
        source=draw(WORD),
        topic="shop",
        payload=draw(st.binary(max_size=100)),
        key=draw(st.none() | TEXT),
        headers={
            **draw(HEADERS),
            **{f"native:{name}": value for name, value in native.items()},
        },
    )


def through_the_client(message: Message) -> Arrival:
    """What a consumer gets of it: our bytes, read by the client."""
    payload = content_header(message)
    whole = frame._marshal(FRAME_HEADER, 1, payload)  # the client's own framing
    assert whole.endswith(payload + FRAME_END_CHAR)
    _, _, header = frame.unmarshal(whole)
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(message.payload)
    return delivered(header.properties, message.payload, routing_key=message.type)


def delivered(
    properties: Any,
    body: bytes = b"{}",
    *,
    exchange: str = "shop",
    routing_key: str = "shop.placed",
) -> Arrival:
    came = DeliveredMessage(
        delivery=Basic.Deliver("ctag", 1, False, exchange, routing_key),
        header=ContentHeader(body_size=len(body), properties=properties),
        body=body,
        channel=None,  # type: ignore[arg-type]  # mapping does not look at it
    )
    return as_arrival(came)


@given(messages())
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    address = (message.topic, message.type)
    header = Properties(content_header(message))
    for came in through_the_client(message), Arrival(1, False, address, header, message.payload):
        back, malformed = read(came)
        assert malformed is None
        assert back == message


def test_the_properties_of_the_broker_say_the_same_as_the_headers() -> None:
    message = Message(
        id="01a2151c-dfd9-750f-a4c6-9eed38e3e736",
        type="shop.placed",
        source="/shop",
        topic="shop",
        payload=b"{}",
        headers={"time": "2026-01-02T03:04:05.678901Z", "correlationid": "c1"},
    )
    properties = through_the_client(message).properties
    assert isinstance(properties, Basic.Properties)
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.message_id == message.id
    assert properties.correlation_id == "c1"
    assert properties.message_type == "shop.placed"
    assert properties.timestamp == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert properties.headers is not None
    assert properties.headers["ce-specversion"] == "1.0"


@pytest.mark.parametrize("time", ["", "yesterday", "1969-01-01T00:00:00Z", "2026-01-02T03:04:05"])
def test_a_time_that_is_none_is_kept_and_not_made_a_timestamp(time: str) -> None:
    message = Message(
        id="1", type="t", source="/s", topic="shop", payload=b"", headers={"time": time}
    )
    came = through_the_client(message)
    assert isinstance(came.properties, Basic.Properties)
    assert came.properties.timestamp is None
    assert read(came)[0].headers == {"time": time}


@pytest.mark.parametrize(
    "foreign", ["x" * 300, "ä" * 200, ""], ids=["long", "long in bytes", "empty"]
)
def test_a_message_id_that_amqp_does_not_take_is_the_identity(foreign: str) -> None:
    message = Message(id=foreign, type="t", source="/s", topic="shop", payload=b"")
    assert message_id_of(message) == str(message.identity)


@given(messages())
def test_the_sdk_of_cloudevents_reads_what_we_write(message: Message) -> None:
    properties = through_the_client(message).properties
    headers: dict[str, Any] = {
        name: value
        for name, value in (properties.headers or {}).items()
        if name.startswith("ce-") and name not in {"ce-time", "ce-dataschema", "ce-subject"}
    }
    event = from_binary(
        RabbitMQMessage(headers=headers, body=b"{}", content_type=properties.content_type),
        JSONFormat(),
        CloudEvent,
    )
    assert event.get_id() == message.id
    assert event.get_type() == message.type
    assert event.get_source() == message.source
    assert event.get_extension("partitionkey") == message.key


@given(st.fixed_dictionaries({"id": WORD, "type": WORD, "source": WORD}), TEXT)
def test_we_read_what_the_sdk_of_cloudevents_writes(attributes: dict[str, str], key: str) -> None:
    event = CloudEvent(attributes={**attributes, "partitionkey": key}, data={"a": 1})
    written = to_binary(event, JSONFormat())
    properties = Basic.Properties(content_type=written.content_type, headers=dict(written.headers))
    message, malformed = read(delivered(properties, written.body))
    assert malformed is None
    assert {"id": message.id, "type": message.type, "source": message.source} == attributes
    assert message.key == key
    assert json.loads(message.payload) == {"a": 1}
    assert from_rabbitmq_event(written).get_id() == attributes["id"]


def test_structured_mode_of_the_sdk_is_a_message() -> None:
    told = {"id": "1", "type": "t", "source": "/s", "partitionkey": "K", "subject": "Ä"}
    written = to_structured(CloudEvent(attributes=told, data={"a": 1}), JSONFormat())
    properties = Basic.Properties(content_type=written.content_type, headers={"x": "y"})
    message, malformed = read(delivered(properties, written.body))
    assert malformed is None
    assert (message.id, message.type, message.source, message.key) == ("1", "t", "/s", "K")
    assert json.loads(message.payload) == {"a": 1}
    assert message.headers["subject"] == "Ä"
    assert message.headers["native:x"] == "y"
    assert "application/cloudevents" not in message.headers.get("datacontenttype", "")


def test_a_broken_structured_envelope_says_why_and_is_kept_whole() -> None:
    body = b'{"specversion":"1.0","id":"1","source":"/s"}'
    properties = Basic.Properties(content_type="application/cloudevents+json", headers={**WHOLE})
    message, malformed = read(delivered(properties, body))
    assert malformed == "missing or empty in its envelope: type"
    assert message.payload == body


def test_a_dead_letter_of_a_structured_envelope_is_read_by_its_headers() -> None:
    properties = Basic.Properties(content_type="application/cloudevents+json", headers={**WHOLE})
    message, malformed = read(delivered(properties, b"{", exchange="", routing_key="s.g.dlq"))
    assert malformed is None
    assert (message.id, message.payload) == ("1", b"{")


WHOLE = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t", "ce-source": "/s"}


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "no CloudEvents headers"),
        ({"x": "y"}, "no CloudEvents headers"),
        ({**WHOLE, "ce-specversion": "2.0"}, "specversion"),
        ({**WHOLE, "ce-id": ""}, "ce-id"),
        ({name: value for name, value in WHOLE.items() if name != "ce-type"}, "ce-type"),
        ({name: value for name, value in WHOLE.items() if name != "ce-source"}, "ce-source"),
    ],
)
def test_an_envelope_that_cannot_be_read_says_why_and_keeps_what_there_is(
    headers: dict[str, Any], says: str
) -> None:
    properties = Basic.Properties(headers={**headers, "ce-partitionkey": "k"}, message_id="m1")
    came = delivered(
        properties if says != "no CloudEvents headers" else Basic.Properties(headers=headers)
    )
    message, malformed = read(came)
    assert malformed is not None
    assert says in malformed
    assert message.id
    assert message.payload == b"{}"
    assert read(came)[0].identity == message.identity


LEGACY = {"shop": "legacy.placed"}


def test_what_is_no_cloud_event_has_the_type_that_its_exchange_is_mapped_to() -> None:
    properties = Basic.Properties(headers={"x": "y"}, message_id="m1", content_type="text/plain")
    message, malformed = read(delivered(properties), LEGACY)
    assert malformed is None
    assert (message.id, message.type, message.source) == ("m1", "legacy.placed", "/rabbit/shop")
    assert message.headers == {"native:x": "y", "datacontenttype": "text/plain"}
    assert read(delivered(properties), {"other": "legacy.placed"})[1] is not None


def test_foreign_messages_without_an_id_are_never_taken_for_repeats() -> None:
    two = [read(delivered(Basic.Properties()), LEGACY) for _ in range(2)]
    assert [malformed for _, malformed in two] == [None, None]
    assert two[0][0].identity != two[1][0].identity


def test_a_broken_cloud_event_is_not_foreign() -> None:
    broken = Basic.Properties(headers={**WHOLE, "ce-id": ""})
    assert read(delivered(broken), LEGACY)[1] is not None


def test_headers_of_others_are_kept_under_their_own_names() -> None:
    death = [
        {"queue": "q", "count": 1, "reason": "rejected", "time": datetime(2026, 1, 1, tzinfo=UTC)}
    ]
    properties = Basic.Properties(
        headers={
            **{name.upper().replace("CE-", "Ce-"): value for name, value in WHOLE.items()},
            "x-delivery-count": 3,
            "x-death": death,  # type: ignore[dict-item]  # nested
            "bytes": bytearray(b"\xff"),
            "number": 7,
            "yes": True,
            "nothing": None,
        }
    )
    message, malformed = read(delivered(properties))
    assert malformed is None
    assert message.headers["native:number"] == "7"
    assert message.headers["native:yes"] == "true"
    assert message.headers["native:bytes"] == "\\xff"
    assert message.headers["native:nothing"] == ""
    assert json.loads(message.headers["native:x-death"])[0]["queue"] == "q"
    assert "native:x-delivery-count" not in message.headers


def test_a_dead_letter_goes_to_its_queue_and_anything_else_to_its_exchange() -> None:
    message = Message(id="1", type="shop.placed", source="/s", topic="shop", payload=b"")
    assert address_of(message) == ("shop", "shop.placed")
    letter = Message(id="1", type="shop.placed", source="/s", topic="shop.billing.dlq", payload=b"")
    assert address_of(letter) == ("", "shop.billing.dlq")
    came = delivered(
        Basic.Properties(headers=dict(WHOLE)), exchange="", routing_key="shop.billing.dlq"
    )
    assert read(came)[0].topic == "shop.billing.dlq"


@pytest.mark.parametrize(
    ("topic", "name"), [("t" * 128, "x"), ("ü", "x"), ("shop", "ä" * 128), ("ü.g.dlq", "x")]
)
def test_names_that_amqp_does_not_take_are_refused_before_anything_is_sent(
    topic: str, name: str
) -> None:
    message = Message(id="1", type=name, source="/s", topic=topic, payload=b"")
    with pytest.raises(ValueError, match=r"."):
        address_of(message)


def test_a_wildcard_takes_every_type_of_its_first_part() -> None:
    assert binding_key("user.*") == "user.#"
    assert binding_key("user.created") == "user.created"
    assert is_among("user.created", ("user.*",))
    assert is_among("user.address.changed", ("user.*",))
    assert not is_among("users.created", ("user.*",))
    assert is_among("a.b", ("a.b",))
