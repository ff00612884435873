"""Consuming through restarts, kills, cuts, deleted topics and lost history."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from eventbus.errors import PublishError, TransportError
from eventbus.testing.conformance.transport.member import (
    Member,
    a_message,
    an_interest,
    counted,
    firsts,
    ids,
    interleaved,
    joined,
    of_key,
    tasks,
)
from eventbus.testing.services import private_kafka
from eventbus.transport import Delivery
from eventbus_kafka import KafkaTransport
from eventbus_kafka.silence import MAX_REBUILDS
from eventbus_kafka.subscription import KafkaSubscription
from tests.integration.kafka.conftest import Open, on
from tests.integration.kafka.waiting import until

FROZEN_SECONDS = 60.0  # what still waits then waits for ever


@pytest.mark.parametrize("how", ["kill", "stop", "freeze"])
async def test_a_group_goes_on_after_its_broker_was_away(how: str) -> None:
    interest = an_interest("shop")
    async with private_kafka() as server, on(server.url, publish_seconds=2) as transport:
        await transport.apply(await transport.plan([interest]))
        async with joined(transport, interest) as member:
            await transport.publish(interleaved("shop", keys=4, count=10))
            before = await member.receive(40, ack=True)
            await member.subscription.flush()
            await transport.publish(counted("shop", "k0", first=10, count=5))
            held = await member.receive(5)
            await getattr(server, how)()
            await until(lambda: transport.trouble is not None)  # told while it is away
            await (server.thaw() if how == "freeze" else server.start())
            await until(lambda: transport.trouble is None, 60)
            await _published(transport, last := a_message("shop", "k0", number=15))
            got = [*before, *held, *await member.receive_until([last])]
            assert firsts(of_key(got, "k0")) == list(range(16))
        async with joined(transport, interest) as member:
            await _published(transport, last := a_message("shop", "k0", number=16))
            again = await member.receive_until([last])
            assert not set(ids(before)) & set(ids(again))


async def _published(transport: KafkaTransport, message: object) -> None:
    while True:
        try:
            await transport.publish([message])  # type: ignore[list-item]  # a Message
        except PublishError:
            continue
        return


async def test_leaving_is_bounded_though_the_broker_never_answers() -> None:
    interest = an_interest("shop")
    async with private_kafka() as server:
        before = tasks()
        transport = on(server.url)
        await transport.__aenter__()
        await transport.apply(await transport.plan([interest]))
        async with asyncio.timeout(None) as hanging, joined(transport, interest) as member:
            await transport.publish(counted("shop", count=3))
            member.ack(await member.receive(3))
            await server.freeze()
            hanging.reschedule(asyncio.get_running_loop().time() + FROZEN_SECONDS)
        async with asyncio.timeout(FROZEN_SECONDS):
            await transport.__aexit__(None, None, None)
        await server.thaw()  # both ended while it answered nothing
        await asyncio.sleep(0)
        assert {name for name in tasks() - before if not name.startswith("Task-")} == set()


async def test_what_cannot_be_reached_says_why_and_does_not_hang() -> None:
    transport = on("kafka://127.0.0.1:9", connect_seconds=3)
    with pytest.raises(TransportError) as away:
        async with asyncio.timeout(FROZEN_SECONDS):
            await transport.__aenter__()
    assert away.value.code == "EB2001"
    assert "127.0.0.1:9" in away.value.what
    assert "onnect" in away.value.why
    assert transport.trouble == "not entered"


async def test_a_group_whose_topic_does_not_exist_ends_with_an_error(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with connect(provision="false", request_seconds=3, rebalance_seconds=2.5) as transport:
        findings = await transport.examine([interest])
        assert ("refuse", "EB2301") in [(each.level, each.code) for each in findings]
        with pytest.raises(TransportError) as missing:
            async with joined(transport, interest) as member:
                await member.receive(1)
        assert missing.value.code == "EB2301"


async def _shortened(transport: KafkaTransport, topic: str, before: int) -> None:
    """As retention does it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.config.servers))
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before)})
    finally:
        await admin.close()


async def test_lost_history_stops_the_partition_and_says_so(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with connect(partitions=1) as transport:
        await _with_lost_history(transport, topic, group)
        async with joined(transport, interest):
            await until(lambda: "EB2306" in (transport.trouble or ""), 10)


async def test_lost_history_is_passed_over_if_that_is_declared(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with connect(partitions=1, on_data_loss="earliest") as transport:
        await _with_lost_history(transport, topic, group)
        async with joined(transport, interest) as member:
            got = await member.receive(8, ack=True)
            assert of_key(got, "k") == list(range(12, 20))
            await member.subscription.flush()
            assert await member.subscription.backlog() == 0


async def _with_lost_history(transport: KafkaTransport, topic: str, group: str) -> None:
    """Five of twenty acknowledged, and what the group would go on with is gone."""
    await transport.publish(counted(topic, count=20))
    async with joined(transport, an_interest(topic, group=group)) as member:
        member.ack((await member.receive(20))[:5])
    await _shortened(transport, topic, 12)


async def test_a_topic_deleted_while_consuming_stops_neither_leaving_nor_others(
    connect: Open, topic: str, group: str
) -> None:
    async with connect() as transport:
        gone = an_interest(f"{topic}-gone", group=f"{group}-gone")
        stays = an_interest(topic, group=group)
        await transport.apply(await transport.plan([gone, stays]))
        async with joined(transport, gone) as one, joined(transport, stays) as other:
            await transport.publish(counted(f"{topic}-gone", count=1))
            await one.receive(1, ack=True)
            admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.config.servers))
            await admin.start()
            await admin.delete_topics([f"{topic}-gone"])
            await admin.close()
            await transport.publish(counted(topic, count=3))
            assert of_key(await other.receive(3, ack=True), "k") == [0, 1, 2]


async def test_a_silent_consumer_is_replaced(connect: Open, topic: str, group: str) -> None:
    """Its fetcher is ended behind its back: records wait, and nothing comes any more (T23)."""
    interest = an_interest(topic, group=group)
    async with connect(silence_seconds=1) as transport:
        await transport.publish(counted(topic, count=3))
        async with joined(transport, interest) as member:
            await member.receive(3, ack=True)
            subscription = member.subscription
            assert isinstance(subscription, KafkaSubscription)
            _silence(subscription)
            number = 3
            while not subscription.rebuilds:
                assert number < 6, "nobody is silent"  # a fetch under way may bring one more
                await transport.publish(counted(topic, first=number, count=1))
                got = await _later(member, 1)
                assert of_key(got, "k") == [number]
                member.ack(got)
                await subscription.flush()
                number += 1
            assert transport.rebuilds >= 1


async def test_a_group_whose_every_new_client_falls_silent_says_so_and_ends(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with connect(silence_seconds=1) as transport:
        await transport.publish(counted(topic, count=1))
        async with joined(transport, interest) as member:
            await member.receive(1, ack=True)
            subscription = member.subscription
            assert isinstance(subscription, KafkaSubscription)
            with pytest.raises(TransportError) as raised:
                for number in range(1, 4 * MAX_REBUILDS):  # a fetch under way may bring one more
                    _silence(subscription)
                    await transport.publish(counted(topic, first=number, count=1))
                    got = await _later(member, 1)
                    assert of_key(got, "k") == [number]
                    member.ack(got)
                    await subscription.flush()
            assert subscription.rebuilds == MAX_REBUILDS
    assert raised.value.code == "EB2308"
    assert group in raised.value.what
    assert "restart the process" in raised.value.next


def _silence(subscription: KafkaSubscription) -> None:
    client = vars(subscription)["_membership"].client
    vars(client._fetcher)["_fetch_task"].cancel()


async def _later(member: Member, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += await anext(member.batches)
    return got


async def test_a_stuck_message_does_not_let_the_rest_run_away(
    connect: Open, topic: str, group: str
) -> None:
    """One without a verdict: fetching stops max_gap above it, however much room there is."""
    interest = an_interest(topic, group=group, max_in_flight=1000)
    async with connect(partitions=1, max_gap=50) as transport:
        await transport.publish(counted(topic, count=3000))
        async with joined(transport, interest) as member:
            first = await member.receive(1)
            stuck = first[0]
            member.ack(first[1:])
            got = len(first)
            try:
                async with asyncio.timeout(3):
                    while True:
                        batch = await anext(member.batches)
                        got += len(batch)
                        member.ack(batch)
            except TimeoutError:
                pass
            assert got <= 50 + 1000
            member.ack([stuck])
            rest = await member.receive(3000 - got, ack=True)
            assert of_key(rest, "k")[-1] == 2999
