"""pika, amqp-tools and the SDK of CloudEvents beside us on one RabbitMQ."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventbus import Context, EventBus, subscribe
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import an_interest
from eventbus_rabbit import RabbitConfig, RabbitTransport, flight
from eventbus_rabbit.mapping import content_header
from tests.integration.rabbit.waiting import until
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
TYPE = "shop.order-placed"


class OrderPlaced(Placed, type=TYPE, version=2, key="order"):
    """On the exchange `shop`."""


def ours(url: str) -> RabbitTransport:
    return RabbitTransport(RabbitConfig.from_url(url, "tests"))


async def read_by_others(url: str) -> Differences:
    """Publish the odd message; what pika finds different from what we promise."""
    (record,) = await read_with_pika(url)
    headers = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
    traceparent = odd_message("shop").headers["native:traceparent"]
    promised = {
        "exchange": "shop",
        "routing_key": TYPE,
        "headers": {**headers, "traceparent": traceparent},
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": f"{ODD} 0",
        "correlation_id": "c-1",
        "type": TYPE,
        "timestamp": MOMENT_MS // 1000,
        "body": odd_message("shop").payload.hex(),
    }
    return [
        f"{name}: {record[name]!r}, not {value!r}"
        for name, value in promised.items()
        if record[name] != value
    ]


async def read_with_pika(url: str) -> list[Any]:
    """From a queue of its own, for nobody else wants it."""
    async with ours(url) as transport:
        await transport.apply(await transport.plan([an_interest("shop")]))
        await foreign("amqp_messages", "bind", url, "theirs", "shop", "shop.#")
        await transport.publish([odd_message("shop")])
    return await foreign("amqp_messages", "read", url, "theirs", 1)


async def test_pika_reads_every_property_that_we_write(rabbit_url: str) -> None:
    assert await read_by_others(rabbit_url) == []


def _changed(old: bytes, new: bytes) -> Callable[[Message], bytes]:
    """As if the mapping had written that; as many bytes as before."""
    assert len(old) == len(new)

    return lambda message: content_header(message).replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ce-partitionkey", b"ce_partitionkey"),
        (b"ce-subject", b"cE-subject"),
        (b"%C3%84", "\u00c4".encode() + b"    "),
        (b"application/json", b"application/jso2"),
    ],
    ids=["another prefix", "another case", "percent-decoded", "another content type"],
)
async def test_a_mapping_that_is_wrong_is_seen_by_pika(
    rabbit_url: str, old: bytes, new: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "content_header", _changed(old, new))
    assert await read_by_others(rabbit_url) != []


async def test_the_sdk_of_cloudevents_understands_what_pika_read(rabbit_url: str) -> None:
    records = await read_with_pika(rabbit_url)
    (event,) = await foreign("cloud_events", "understand", "rabbit", given=records)
    assert event == {"attributes": UNDERSTOOD, "data": {"order": ODD, "number": 0}}


async def test_the_sdk_of_cloudevents_understands_an_event_of_a_bus(rabbit_url: str) -> None:
    async with handling(rabbit_url) as seen:
        await foreign("amqp_messages", "bind", rabbit_url, "theirs", "shop", TYPE)
        given = await seen.bus.publish(OrderPlaced(order=ODD, number=7), headers={"tenant": "t1"})
        await until(lambda: bool(seen.events))
    records = await foreign("amqp_messages", "read", rabbit_url, "theirs", 1)
    (event,) = await foreign("cloud_events", "understand", "rabbit", given=records)
    found = event["attributes"]
    assert event["data"] == {"order": ODD, "number": 7}
    assert (found["id"], found["source"], found["type"]) == (given, "/shop", TYPE)
    assert found["dataschema"] == f"urn:eventbus:schema:{TYPE}:2"
    assert (found["partitionkey"], found["tenant"]) == (f"t1/{ODD}", "t1")


async def test_another_consumer_of_a_group_gets_what_the_group_has_not_read(
    rabbit_url: str,
) -> None:
    async with ours(rabbit_url) as transport:
        await transport.examine([an_interest("shop", group="billing")])
        await transport.publish([odd_message("shop")])
    consume = tool("amqp-consume", "amqp-tools")
    body = await run(consume, "-u", rabbit_url, "-q", "billing", "-c", "1", "cat")
    assert body == odd_message("shop").payload


class Handled:
    """What the handler of a bus saw."""

    def __init__(self) -> None:
        self.bus: EventBus
        self.events: list[Placed] = []
        self.messages: list[Message] = []


@asynccontextmanager
async def handling(url: str) -> AsyncIterator[Handled]:
    """A bus with one handler for `shop.order-placed`, entered."""
    seen = Handled()

    @subscribe(OrderPlaced, group="billing")
    async def handle(event: OrderPlaced, ctx: Context) -> None:
        seen.events.append(event)
        seen.messages.append(ctx.message)

    bus = EventBus(url, storage="sqlite://", service="shop", handlers=[handle])
    async with bus:
        seen.bus = bus
        yield seen


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_what_the_sdk_of_cloudevents_makes_reaches_a_handler(
    rabbit_url: str, mode: str
) -> None:
    wanted = [event_to_make(TYPE, number) for number in range(3)]
    for each in wanted:
        each["attributes"]["dataschema"] = f"urn:eventbus:schema:{TYPE}:2"
    records = await foreign("cloud_events", "make", "rabbit", mode, given=wanted)
    async with handling(rabbit_url) as seen:
        await foreign("amqp_messages", "write", rabbit_url, "shop", TYPE, given=records)
        await until(lambda: len(seen.events) == 3)
    assert [(event.order, event.number) for event in seen.events] == [
        (ODD, 0),
        (ODD, 1),
        (ODD, 2),
    ]
    message = seen.messages[0]
    assert (message.id, message.source, message.key) == (f"{ODD} 0", "/their/shöp", ODD)
    assert message.headers["tenant"] == "t1"


async def test_what_amqp_publish_writes_reaches_a_handler(rabbit_url: str) -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "from-a-shell",
        "ce-source": "/shell",
        "ce-type": TYPE,
        "ce-dataschema": f"urn:eventbus:schema:{TYPE}:2",
        "ce-partitionkey": "A-1",
    }
    flags = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    publish = tool("amqp-publish", "amqp-tools")
    async with handling(rabbit_url) as seen:
        to = ("-u", rabbit_url, "-e", "shop", "-r", TYPE, "-C", "application/json", "-p")
        body = '{"order":"A-1","number":1}'
        await run(publish, *to, *flags, "-b", body)
        await until(lambda: bool(seen.events))
    assert (seen.events[0].number, seen.messages[0].id) == (1, "from-a-shell")
    assert seen.messages[0].key == "A-1"
