"""The document of each application: it holds together, says all of it, and is the same again."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.asyncapi import document_of, problems_of
from tests.unit.asyncapi.apps import APPS, HANDLERS, TRANSPORTS, hard

GOLDEN = Path(__file__).with_name("live_services.json")
Document = Mapping[str, Any]


def document(bus: EventBus) -> dict[str, Any]:
    description = asyncio.run(bus.describe())
    return document_of(description, title="shop", version="1.4.0")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("app", APPS)
def test_a_document_holds_together(app: str, transport: str) -> None:
    found = document(APPS[app]().replace(transport=TRANSPORTS[transport]))
    assert problems_of(found) == []
    assert found["operations"]


@pytest.mark.parametrize("app", APPS)
def test_every_handler_receives_and_every_type_of_the_app_is_sent_once(app: str) -> None:
    bus = APPS[app]()
    description = asyncio.run(bus.describe())
    found = document(bus)
    received = [one for one in found["operations"].values() if one["action"] == "receive"]
    handlers = [each for routes in description.groups.values() for each in routes.handlers]
    # the handler of a saga reads several topics, the others of the examples one each
    alone = [each for each in handlers if each.batches is None]
    sagas = [each for each in handlers if each.batches is not None]
    topics = [topic for each in sagas for topic in description.groups[each.name].interest().topics]
    assert len(received) == len(alone) + len(topics)
    sent = [
        each.rpartition("/")[2]
        for one in found["operations"].values()
        if one["action"] == "send" and not one["channel"]["$ref"].endswith(".dlq")
        for each in (message["$ref"] for message in one["messages"])
    ]
    assert len(sent) == len(set(sent))
    own = {
        f"{cls.__wire__.type}.v{cls.__wire__.version}"
        for cls in description.own
        if cls.__wire__ is not None and not cls.__module__.startswith("eventbus.")
    }
    assert own <= set(sent)


@pytest.mark.parametrize("app", ["05_saga", "order_book", "hard"])
def test_a_message_of_an_operation_stands_in_its_channel(app: str) -> None:
    found = document(APPS[app]())
    for operation in found["operations"].values():
        for one in (operation, *([operation["reply"]] if "reply" in operation else [])):
            for message in one["messages"]:
                assert message["$ref"].startswith(f"{one['channel']['$ref']}/messages/")


def test_the_order_of_handlers_changes_nothing() -> None:
    bus = hard()
    turned = EventBus("memory://", service="shop", handlers=[*reversed(HANDLERS)])
    assert json.dumps(document(turned)) == json.dumps(document(bus))


def test_the_document_of_an_example_is_the_committed_one() -> None:
    found = document(APPS["live_services"]().replace(transport=TRANSPORTS["kafka"]))
    assert f"{json.dumps(found, indent=2)}\n" == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("kafka://ada:sesame@one,two:9093?tls=true", ["one:9092", "two:9093"]),
        ("amqps://ada:sesame@rabbit.example/shop", ["rabbit.example:5671"]),
    ],
)
def test_servers_are_named_without_secrets(url: str, hosts: list[str]) -> None:
    found = document(hard(url))
    assert [one["host"] for one in found["servers"].values()] == hosts
    assert {one["protocol"] for one in found["servers"].values()} <= {"kafka-secure", "amqps"}
    assert all(one["security"] for one in found["servers"].values())
    assert "sesame" not in json.dumps(found)
    assert "ada" not in json.dumps(found)


def test_each_broker_has_its_addresses_and_its_names_of_headers() -> None:
    kafka, rabbit = (document(hard(TRANSPORTS[name])) for name in ("kafka", "rabbit"))
    assert kafka["channels"]["shop"]["address"] == "shop"
    assert kafka["channels"]["shop"]["bindings"]["kafka"]["partitions"] == 6
    group = kafka["operations"]["depot.pack"]["bindings"]["kafka"]["groupId"]
    assert group == {"type": "string", "const": "depot"}
    assert rabbit["channels"]["shop"]["address"] == "{type}"
    assert rabbit["channels"]["shop"]["parameters"]["type"]["enum"] == ["shop.ordered"]
    assert rabbit["channels"]["shop"]["bindings"]["amqp"]["exchange"]["name"] == "shop"
    assert "enum" not in rabbit["channels"]["legacy"]["parameters"]["type"]  # any of its types
    for found, prefix in ((kafka, "ce_"), (rabbit, "ce-"), (document(hard()), "")):
        message = found["components"]["messages"]["shop.ordered.v3"]
        assert message["headers"]["properties"][f"{prefix}type"]["const"] == "shop.ordered"
        assert message["correlationId"]["location"] == f"$message.header#/{prefix}correlationid"


def test_dead_letters_have_a_channel_where_no_storage_takes_them() -> None:
    without = document(hard(TRANSPORTS["rabbit"]))
    letters = without["channels"]["shop.depot.dlq"]
    assert letters["address"] == "shop.depot.dlq"
    assert letters["bindings"]["amqp"]["queue"]["name"] == "shop.depot.dlq"
    assert list(letters["messages"]) == ["shop.ordered.v3"]
    assert without["operations"]["send.shop.depot.dlq"]["action"] == "send"
    stored = document(hard(TRANSPORTS["rabbit"], storage="sqlite://"))
    assert [name for name in stored["channels"] if name.endswith(".dlq")] == []


def test_a_command_is_answered_where_it_says() -> None:
    found = document(APPS["05_saga"]().replace(transport=TRANSPORTS["kafka"]))
    reply = found["operations"]["payments.charge_card"]["reply"]
    assert reply["address"]["location"] == "$message.header#/ce_sagareplyto"
    assert [each["$ref"].rpartition("/")[2] for each in reply["messages"]] == [
        "payments.card-charged.v1",
        "payments.card-declined.v1",
    ]
    assert found["channels"]["answers-to-commands"]["address"] is None
    assert "send.payments.charge-card" in found["operations"]
    assert "payments.card-charged.v1" in found["channels"]["place-order.replies"]["messages"]
    inner = [name for name in found["components"]["messages"] if "unreadable" in name]
    assert inner == []


def test_schemas_are_hoisted_and_keep_what_only_looks_like_a_keyword() -> None:
    schemas = document(hard())["components"]["schemas"]
    assert {"shop.ordered.v3", "shop.ordered.v3.Card", "shop.ordered.v3.Line"} <= set(schemas)
    ordered = schemas["shop.ordered.v3"]
    assert "discriminator" in ordered["properties"]
    assert "discriminator" not in ordered["properties"]["payment"]
    assert len(ordered["properties"]["payment"]["oneOf"]) == 2
    line = schemas["shop.ordered.v3.Line"]["properties"]["parts"]["items"]["$ref"]
    assert line == "#/components/schemas/shop.ordered.v3.Line"
    assert all("$defs" not in keywords for keywords in walked(schemas))


def test_a_message_says_which_versions_are_read() -> None:
    message = document(hard())["components"]["messages"]["shop.ordered.v3"]
    assert message["x-eventbus"] == {"kind": "event", "version": 3, "reads": [2, 3]}


def test_what_is_wrong_with_a_document_is_found() -> None:
    found = document(hard(TRANSPORTS["rabbit"]))
    shop, pack = found["channels"]["shop"], found["operations"]["depot.pack"]
    found["asyncapi"] = "3.0.0"
    del found["info"]["version"]
    found["servers"]["rabbit"]["host"] = None
    found["channels"]["twin"] = shop
    shop["parameters"] = {}
    shop["servers"] = [{"$ref": "#/channels/depot"}]
    pack["action"] = "publish"
    pack["messages"] = [{"$ref": "#/components/messages/shop.ordered.v3"}]
    found["operations"]["watch.count"]["channel"] = {"$ref": "#/components"}
    found["components"]["schemas"]["a b"] = {"$ref": "#/$defs/Card"}
    found["components"]["messages"]["depot.counted"]["headers"] = {}
    assert [one.where for one in problems_of(found)] == [
        "#/asyncapi",
        "#/info/version",
        "#/servers/rabbit/host",
        "#/components/schemas/a b/$ref",
        "#/channels/shop/parameters",
        "#/channels/shop/servers",
        "#/channels/twin/address",
        "#/channels/twin/parameters",
        "#/channels/twin/servers",
        "#/operations/depot.pack/action",
        "#/operations/depot.pack/messages/0",
        "#/operations/watch.count/channel",
        "#/components/schemas/a b",
        "#/components/messages/depot.counted/headers",
    ]


@pytest.mark.parametrize("wrong", [{}, {"info": 3, "channels": [], "operations": None}])
def test_what_is_no_document_is_said_to_be_none(wrong: Document) -> None:
    assert [one.where for one in problems_of(wrong)][:2] == ["#/asyncapi", "#/info/title"]


def test_a_document_of_any_form_is_looked_at() -> None:
    for found in spoilt(document(hard(TRANSPORTS["kafka"]))):
        problems_of(found)


def spoilt(whole: dict[str, Any]) -> Iterator[Document]:
    """With one part after the other, three levels deep, replaced by what does not belong there."""
    places: list[tuple[dict[str, Any], str]] = [(whole, key) for key in whole]
    for _ in range(3):
        places += [
            (holder[key], inner)
            for holder, key in places
            if isinstance(holder[key], dict)
            for inner in holder[key]
        ]
    for holder, key in places:
        kept = holder[key]
        for wrong in (3, None, "a", [], [3], {}, {"$ref": "other.json"}):
            holder[key] = wrong
            yield whole
        holder[key] = kept


def walked(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for each in value.values():
            yield from walked(each)
    elif isinstance(value, list):
        for each in value:
            yield from walked(each)
