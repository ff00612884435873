"""What a configuration means: every refusal and warning, with code, why and a way out."""

from datetime import timedelta
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.errors import Finding
from eventbus.transport import Interest
from eventbus_rabbit import RabbitConfig
from eventbus_rabbit.examination import examined
from eventbus_rabbit.spreading import share
from eventbus_rabbit.subscription import prefetch_of
from eventbus_rabbit.topology import queues_of, topology_of
from examples.order_book.order_saga import FulfilOrder


def an_interest(**changes: Any) -> Interest:
    return Interest(**{"group": "billing", "topics": ("shop",), "types": (), **changes})


def findings(config: RabbitConfig, *interests: Interest) -> list[Finding]:
    found = list(examined(config, interests))
    assert all(each.code and each.what and each.why and each.next for each in found)
    return found


def of_level(level: str, found: list[Finding]) -> list[str]:
    return [each.code for each in found if each.level == level]


def test_the_defaults_refuse_nothing_and_warn_of_nothing() -> None:
    found = findings(RabbitConfig(), an_interest())
    assert of_level("refuse", found) == of_level("warn", found) == []
    assert of_level("say", found) == ["EB2209", "EB2210"]


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({}, {"timeout": timedelta(minutes=40)}),
        ({"consumer_timeout": timedelta(seconds=30)}, {}),
        ({"prefetch": 1000}, {}),  # 1000 x 30 s / 16 lanes = 1875 s
        ({}, {"lanes": 1}),
        ({}, {"timeout": timedelta(minutes=3)}),
    ],
)
def test_what_could_outlive_the_brokers_patience_is_refused(
    config: dict[str, Any], changes: dict[str, Any]
) -> None:
    found = findings(RabbitConfig(**config), an_interest(**changes))
    assert of_level("refuse", found) == ["EB1104"]


@pytest.mark.parametrize(
    "config",
    [{"host": "broker.example"}, {"tls": True, "verify": False}],
)
def test_a_connection_that_others_can_read_is_warned_of(config: dict[str, Any]) -> None:
    assert of_level("warn", findings(RabbitConfig(**config))) == ["EB2208"]


def test_an_encrypted_connection_is_fine() -> None:
    assert findings(RabbitConfig(host="broker.example", tls=True)) == []


def test_latest_means_nothing_more_here() -> None:
    assert of_level("warn", findings(RabbitConfig(), an_interest(start="latest"))) == ["EB1107"]


def test_shards_are_told_of_and_slips_warned_of() -> None:
    sharded = RabbitConfig(shards={"billing": 4})
    assert "EB2207" in of_level("say", findings(sharded, an_interest()))
    assert "EB2207" in of_level("warn", findings(sharded, an_interest(order="none")))
    assert "EB2207" in of_level("warn", findings(sharded, an_interest(group="other")))


def test_shards_share_what_a_member_may_hold() -> None:
    config, interest = RabbitConfig(shards={"billing": 4}), an_interest(max_in_flight=100)
    assert queues_of(interest, config) == tuple(f"billing.g1.{shard}" for shard in range(4))
    assert prefetch_of(interest, config) == 25
    assert prefetch_of(an_interest(max_in_flight=2), config) == 1
    assert prefetch_of(an_interest(), RabbitConfig()) == 200


@pytest.mark.parametrize(
    ("shards", "members", "each"), [(4, 1, 4), (4, 2, 2), (5, 2, 3), (4, 4, 1), (4, 9, 1)]
)
def test_the_share_of_a_member_serves_all_shards(shards: int, members: int, each: int) -> None:
    assert share(shards, members) == each
    assert share(shards, members) * members >= shards


def test_a_topology_binds_each_type_of_each_topic_once() -> None:
    interest = an_interest(topics=("shop", "user"), types=("shop.placed", "user.*", "user.*"))
    topology = topology_of(interest, RabbitConfig())
    assert [(each.source, each.target, each.key) for each in topology.bindings] == [
        ("shop", "billing", "shop.placed"),
        ("shop", "billing", "user.#"),
        ("user", "billing", "shop.placed"),
        ("user", "billing", "user.#"),
    ]
    assert topology.hashed is None


@pytest.mark.parametrize(
    ("letters", "made"), [(True, ["shop.billing.dlq", "user.billing.dlq"]), (False, [])]
)
def test_queues_of_dead_letters_belong_to_groups_without_a_storage(
    letters: bool, made: list[str]
) -> None:
    interest = an_interest(topics=("shop", "user"), letters=letters)
    topology = topology_of(interest, RabbitConfig())
    assert [queue.name for queue in topology.letters] == made


FOREIGN = RabbitConfig(foreign={"legacy": "legacy.placed"})


@pytest.mark.parametrize(
    ("types", "keys"),
    [
        (("legacy.placed",), ["#"]),
        (("legacy.*",), ["#"]),
        ((), ["#"]),
        (("legacy.other",), ["legacy.other"]),
    ],
)
def test_a_group_takes_all_of_an_exchange_whose_type_it_wants(
    types: tuple[str, ...], keys: list[str]
) -> None:
    topology = topology_of(an_interest(topics=("legacy",), types=types), FOREIGN)
    assert [each.key for each in topology.bindings] == keys
    assert [each.foreign for each in topology.exchanges] == [True]


def test_duplicates_of_foreign_messages_are_told_of_for_groups_that_take_them() -> None:
    told = [
        each.what
        for topic in ("legacy", "shop")
        for each in findings(FOREIGN, an_interest(topics=(topic,)))
        if each.code == "EB2211"
    ]
    assert len(told) == 1
    assert "duplicates possible" in told[0]


def test_a_sharded_topology_hashes_by_key_behind_the_topics() -> None:
    topology = topology_of(an_interest(), RabbitConfig(shards={"billing": 2}))
    assert topology.hashed is not None
    assert topology.hashed.arguments == {"hash-header": "ce-partitionkey"}
    assert [
        (each.source, each.target, each.key, each.to_exchange) for each in topology.bindings
    ] == [
        ("shop", "billing.shards", "#", True),
        ("billing.shards", "billing.g1.0", "1", False),
        ("billing.shards", "billing.g1.1", "1", False),
    ]


@pytest.mark.parametrize("url", ["amqp://127.0.0.1/", "amqp://127.0.0.1/?prefetch=5000"])
async def test_a_saga_runs_with_the_defaults_of_the_url(url: str) -> None:
    bus = EventBus(url, storage="sqlite://", service="shop", handlers=[FulfilOrder])
    found = (await bus.describe()).findings
    assert of_level("say", list(found)).count("EB2209") == 1  # its group was looked at
    assert of_level("refuse", list(found)) == []
