"""Topics: planned, made, judged."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from eventbus.errors import Finding, TransportError
from eventbus.testing.conformance.transport.member import an_interest
from eventbus_kafka import KafkaTransport
from tests.integration.kafka.conftest import Open


async def a_topic(transport: KafkaTransport, topic: str, partitions: int, **settings: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.config.servers))
    await admin.start()
    try:
        named = {name.replace("_", "."): value for name, value in settings.items()}
        await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=named)])
    finally:
        await admin.close()


def codes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.level, each.code) for each in findings]


async def test_a_plan_after_it_was_applied_is_empty(connect: Open, topic: str) -> None:
    interests = [an_interest(topic), an_interest(f"{topic}2", topics=(topic, f"{topic}2"))]
    async with connect(partitions=4) as transport:
        plan = await transport.plan(interests)
        assert [change.what for change in plan] == [
            f"create topic {topic}: 4 partitions, 1 replicas",
            f"create topic {topic}2: 4 partitions, 1 replicas",
        ]
        assert not any(change.destructive for change in plan)
        await transport.apply(plan)
        await transport.apply(plan)  # somebody else was first
        assert await transport.plan(interests) == []


async def test_a_topic_made_here_takes_the_largest_message(connect: Open, topic: str) -> None:
    interest = an_interest(topic)
    async with connect() as transport:
        await transport.apply(await transport.plan([interest]))
        found = list(await transport.examine([interest]))
        assert codes(found) == [("warn", "EB2310")]
        assert "one replica" in found[0].what


async def test_a_topic_that_is_missing_is_refused(connect: Open, topic: str) -> None:
    async with connect(provision="false") as transport:
        found = list(await transport.examine([an_interest(topic)]))
        assert codes(found) == [("refuse", "EB2301")]


async def test_a_deployment_that_provisions_makes_it_when_it_is_examined(
    connect: Open, topic: str
) -> None:
    async with connect() as transport:
        found = list(await transport.examine([an_interest(topic)]))
        assert codes(found) == [("warn", "EB2310")]
        assert await transport.plan([an_interest(topic)]) == []


@pytest.mark.parametrize(("order", "level"), [("key", "refuse"), ("none", "warn")])
async def test_another_partition_count_than_declared_is_refused_where_keys_have_an_order(
    connect: Open, topic: str, order: str, level: str
) -> None:
    async with connect(partitions=3) as transport:
        await a_topic(transport, topic, 5, max_message_bytes="2000000")
        found = list(await transport.examine([an_interest(topic, order=order)]))
        assert codes(found) == [(level, "EB2303"), ("warn", "EB2310")]
        assert "5 partitions, declared are 3" in found[0].what
    async with connect(partitions=5) as accepted:
        found = list(await accepted.examine([an_interest(topic, order=order)]))
        assert codes(found) == [("warn", "EB2310")]


async def test_settings_that_weaken_a_promise_are_warned_of(connect: Open, topic: str) -> None:
    async with connect() as transport:
        await a_topic(
            transport, topic, 3, cleanup_policy="compact,delete", max_message_bytes="1000"
        )
        found = list(await transport.examine([an_interest(topic)]))
        assert codes(found) == [("warn", "EB2310"), ("warn", "EB2310"), ("warn", "EB2311")]
        assert "compact" in found[1].what
        assert all(each.why and each.next for each in found)


async def test_without_being_entered_nobody_can_be_asked(connect: Open, topic: str) -> None:
    transport = connect()
    with pytest.raises(TransportError) as refused:
        await transport.plan([an_interest(topic)])
    assert refused.value.code == "EB2105"
