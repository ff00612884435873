"""confluent-kafka, kcat and the SDK of CloudEvents beside us on one Kafka."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from eventbus import Context, EventBus, subscribe
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import a_message, an_interest, counted, joined
from eventbus_kafka import KafkaConfig, KafkaTransport, calls
from eventbus_kafka.mapping import Headers, headers_of
from tests.integration.kafka.waiting import until
from tests.outside.programs import foreign, run, tool
from tests.outside.samples import (
    ATTRIBUTES,
    MOMENT_MS,
    ODD,
    UNDERSTOOD,
    Placed,
    event_to_make,
    odd_message,
)

Differences = list[str]


@pytest.fixture
def servers(kafka_url: str) -> str:
    return kafka_url.removeprefix("kafka://")


@pytest.fixture
def topic(kafka_prefix: str) -> str:
    return f"{kafka_prefix}shop"


@pytest.fixture
def group(kafka_prefix: str) -> str:
    return f"{kafka_prefix}billing"


def ours(servers: str, **options: object) -> KafkaTransport:
    settings = {"provision": "true", "partitions": 1, "replication": 1, **options}
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return KafkaTransport(KafkaConfig.from_url(f"kafka://{servers}?{query}", "tests"))


async def read_by_others(servers: str, topic: str) -> Differences:
    """Publish the odd message; what confluent-kafka finds different from what we promise."""
    async with ours(servers) as transport:
        await transport.publish([odd_message(topic)])
    (record,) = await foreign("kafka_records", "read", servers, topic, 1)
    headers = [(name, bytes.fromhex(value)) for name, value in record["headers"]]
    wanted = [(f"ce_{name}", value.encode()) for name, value in ATTRIBUTES.items()]
    wanted.append(("content-type", b"application/json"))
    wanted += [
        (name.removeprefix("native:"), value.encode())
        for name, value in odd_message(topic).headers.items()
        if name.startswith("native:")
    ]
    return [
        f"{what}: {found!r}, not {promised!r}"
        for what, found, promised in (
            ("headers", sorted(headers), sorted(wanted)),
            ("key", record["key"], f"t1/{ODD}".encode().hex()),
            ("value", record["value"], odd_message(topic).payload.hex()),
            ("timestamp", record["timestamp"], MOMENT_MS),
        )
        if found != promised
    ]


async def test_confluent_kafka_reads_every_byte_that_we_write(servers: str, topic: str) -> None:
    assert await read_by_others(servers, topic) == []


def percent_encoded(message: Message) -> Headers:
    return [(name, value.replace(b"%", b"%25")) for name, value in headers_of(message)]


def without_the_key(message: Message) -> Headers:
    return [each for each in headers_of(message) if each[0] != "ce_partitionkey"]


def in_both_modes(message: Message) -> Headers:
    kept = [each for each in headers_of(message) if each[0] != "content-type"]
    return [*kept, ("content-type", b"application/cloudevents+json")]


@pytest.mark.parametrize("mutant", [percent_encoded, without_the_key, in_both_modes])
async def test_a_mapping_that_is_wrong_is_seen_by_confluent_kafka(
    servers: str, topic: str, mutant: Callable[[Message], Headers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "headers_of", mutant)
    assert len(await read_by_others(servers, topic)) == 1


async def test_kcat_prints_what_we_write(servers: str, topic: str) -> None:
    message = odd_message(topic)
    async with ours(servers) as transport:
        await transport.publish([message])
    kcat = tool("kcat", "kcat")
    out = await run(kcat, "-C", "-b", servers, "-t", topic, "-o", "beginning", "-e", "-q", "-J")
    (record,) = map(json.loads, out.splitlines())
    headers = dict(zip(record["headers"][::2], record["headers"][1::2], strict=True))
    assert {name: headers[f"ce_{name}"] for name in ATTRIBUTES} == ATTRIBUTES
    assert headers["content-type"] == "application/json"
    assert (record["key"], record["payload"]) == (message.key, message.payload.decode())
    assert record["ts"] == MOMENT_MS


async def test_the_sdk_of_cloudevents_understands_what_confluent_kafka_read(
    servers: str, topic: str
) -> None:
    async with ours(servers) as transport:
        await transport.publish([odd_message(topic)])
    records = await foreign("kafka_records", "read", servers, topic, 1)
    (event,) = await foreign("cloud_events", "understand", "kafka", given=records)
    assert event == {"attributes": UNDERSTOOD, "data": {"order": ODD, "number": 0}}


async def test_the_sdk_of_cloudevents_understands_an_event_of_a_bus(
    servers: str, topic: str
) -> None:
    class OnTopic(Placed, type="shop.order-placed", version=2, key="order", topic=topic):
        pass

    async with EventBus(ours(servers), storage="sqlite://", service="shop", handlers=[]) as bus:
        given = await bus.publish(OnTopic(order=ODD, number=7), headers={"tenant": "t1"})
        await bus.until_idle(at_most=timedelta(seconds=20))
    records = await foreign("kafka_records", "read", servers, topic, 1)
    (event,) = await foreign("cloud_events", "understand", "kafka", given=records)
    found = event["attributes"]
    assert event["data"] == {"order": ODD, "number": 7}
    assert (found["id"], found["source"], found["type"]) == (given, "/shop", "shop.order-placed")
    assert found["dataschema"] == "urn:eventbus:schema:shop.order-placed:2"
    assert (found["partitionkey"], found["tenant"]) == (f"t1/{ODD}", "t1")
    assert bytes.fromhex(records[0]["key"]).decode() == found["partitionkey"]


class Handled:
    """What the handler of a bus saw."""

    def __init__(self) -> None:
        self.events: list[Placed] = []
        self.messages: list[Message] = []


@asynccontextmanager
async def handling(
    servers: str, topic: str, group: str, **options: object
) -> AsyncIterator[Handled]:
    """A bus with one handler for `shop.order-placed`, entered."""
    seen = Handled()

    class OnTopic(Placed, type="shop.order-placed", key="order", topic=topic):
        pass

    @subscribe(OnTopic, group=group)
    async def handle(event: Placed, ctx: Context) -> None:
        seen.events.append(event)
        seen.messages.append(ctx.message)

    transport = ours(servers, **options)
    async with EventBus(transport, storage="sqlite://", service="shop", handlers=[handle]):
        yield seen


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_what_the_sdk_of_cloudevents_makes_reaches_a_handler(
    servers: str, topic: str, group: str, mode: str
) -> None:
    wanted = [event_to_make("shop.order-placed", number) for number in range(3)]
    records = await foreign("cloud_events", "make", "kafka", mode, given=wanted)
    async with handling(servers, topic, group) as seen:
        await foreign("kafka_records", "write", servers, topic, given=records)
        await until(lambda: len(seen.events) == 3)
    assert [(event.order, event.number) for event in seen.events] == [
        (ODD, 0),
        (ODD, 1),
        (ODD, 2),
    ]
    message = seen.messages[0]
    assert (message.id, message.source, message.key) == (f"{ODD} 0", "/their/shöp", ODD)
    assert message.headers["tenant"] == "t1"


async def test_what_kcat_writes_reaches_a_handler(servers: str, topic: str, group: str) -> None:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "from-kcat",
        "ce_source": "/kcat",
        "ce_type": "shop.order-placed",
        "content-type": "application/json",
    }
    flags = [part for name, value in headers.items() for part in ("-H", f"{name}={value}")]
    async with handling(servers, topic, group) as seen:
        to = ("-b", servers, "-t", topic, "-k", ODD)
        body = f'{{"order":"{ODD}","number":1}}'.encode()
        await run(tool("kcat", "kcat"), "-P", *to, *flags, given=body)
        await until(lambda: bool(seen.events))
    assert (seen.events[0].order, seen.messages[0].id) == (ODD, "from-kcat")
    assert seen.messages[0].key == ODD


async def test_a_record_without_any_envelope_reaches_a_handler_of_its_topic(
    servers: str, topic: str, group: str
) -> None:
    record = {"key": b"A-1".hex(), "value": b'{"order":"A-1","number":5}'.hex()}
    declared: dict[str, Any] = {"foreign": f"{topic}:shop.order-placed", "cluster": "prod"}
    async with handling(servers, topic, group, **declared) as seen:
        (place,) = await foreign("kafka_records", "write", servers, topic, given=[record])
        await until(lambda: bool(seen.events))
    assert seen.messages[0].id == f"prod/{topic}/0/{place['offset']}"
    assert (seen.messages[0].key, seen.events[0].number) == ("A-1", 5)


async def test_a_key_meets_the_same_partition_whoever_writes_it(servers: str, topic: str) -> None:
    keys = [f"{ODD}-{number}" for number in range(100)]
    async with ours(servers, partitions=7) as transport:
        await transport.publish([a_message(topic, key) for key in keys])
    records = await foreign("kafka_records", "read", servers, topic, 100)
    by_us = {bytes.fromhex(record["key"]).decode(): record["partition"] for record in records}
    given = [{"key": key.encode().hex(), "value": b"1".hex()} for key in keys]
    placed = await foreign("kafka_records", "write", servers, topic, given=given)
    by_them = {bytes.fromhex(record["key"]).decode(): record["partition"] for record in placed}
    assert by_us == by_them
    assert len(set(by_us.values())) == 7


async def test_offsets_that_we_commit_are_seen_and_those_of_others_are_gone_on_from(
    servers: str, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with ours(servers) as transport:
        await transport.publish(counted(topic, count=10))
        async with joined(transport, interest) as member:
            member.ack((await member.receive(10))[:4])
            await member.subscription.flush()
        seen = await foreign("kafka_records", "committed", servers, topic, group)
        assert seen == [{"partition": 0, "offset": 4}]
        await foreign("kafka_records", "commit", servers, topic, group, 0, 7)
        async with joined(transport, interest) as member:
            rest = await member.receive(3)
            assert [int(each.message.payload) for each in rest] == [7, 8, 9]
