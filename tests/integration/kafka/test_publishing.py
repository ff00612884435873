"""Publishing when the broker refuses, does not answer, or dies."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from eventbus.errors import (
    Confirmed,
    NotSent,
    PublishError,
    PublishResult,
    PublishUnknownError,
    Rejected,
    TransportError,
    Unknown,
)
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import a_message, counted, firsts
from eventbus.testing.services import private_kafka
from eventbus_kafka import KafkaTransport
from eventbus_kafka.topics import Topics
from tests.integration.kafka.conftest import Open, on
from tests.integration.kafka.waiting import until


async def stored(transport: KafkaTransport, topic: str) -> list[Message]:
    """All that the log holds of a topic."""
    return [
        delivery.message
        async for batch in transport.replay([topic], start="first", stop="now")
        for delivery in batch
    ]


async def stored_once_led(transport: KafkaTransport, topic: str) -> list[Message]:
    """The same after a broker died: reading is refused as long as its partitions have no leader."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await stored(transport, topic)
            except TransportError as error:
                if error.code != "EB2001":
                    raise


def numbers(messages: Sequence[Message], key: str = "k") -> list[int]:
    return [int(message.payload[:6]) for message in messages if message.key == key]


async def results_of(transport: KafkaTransport, message: Message) -> Sequence[PublishResult]:
    """Of publishing it; none: it was confirmed."""
    try:
        await transport.publish([message])
    except PublishError as error:
        return error.results
    return ()


async def a_topic(transport: KafkaTransport, topic: str, **settings: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.config.servers))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    finally:
        await admin.close()
    assert await transport.plan([]) == []


@pytest.mark.parametrize("place", [0, 1, 7, 14])
async def test_of_a_refused_batch_nothing_is_stored_and_the_guilty_one_is_found(
    connect: Open, topic: str, place: int
) -> None:
    async with connect() as transport:
        await a_topic(transport, topic, **{"max.message.bytes": "2000"})
        messages = [
            replace(each, payload=b"%06d" % number)
            for number, each in enumerate(counted(topic, count=15))
        ]
        messages[place] = replace(messages[place], payload=b"%06d" % place + bytes(3000))
        with pytest.raises(PublishError) as refused:
            await transport.publish(messages)
        assert refused.value.code == "EB2101"
        kinds = [type(result) for result in refused.value.results]
        behind = len(messages) - place - 1
        assert kinds == [*[Confirmed] * place, Rejected, *[NotSent] * behind]
        assert numbers(await stored(transport, topic)) == list(range(place))
        await transport.publish(messages[place + 1 :])
        left = [number for number in range(15) if number != place]
        assert numbers(await stored(transport, topic)) == left


async def test_a_refusal_in_a_shared_batch_stops_nobody_else(connect: Open, topic: str) -> None:
    async with connect() as transport:
        await a_topic(transport, topic, **{"max.message.bytes": "2000"})
        bad = replace(a_message(topic, "bad"), payload=bytes(3000))
        calls = [
            transport.publish([bad if number == 5 else a_message(topic, f"k{number}", number)])
            for number in range(12)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [number for number, answer in enumerate(answers) if answer is not None] == [5]
        assert isinstance(answers[5], PublishError)
        assert len(await stored(transport, topic)) == 11


async def test_a_time_that_the_broker_refuses_keeps_no_message_from_its_way(
    connect: Open, topic: str
) -> None:
    async with connect() as transport:
        await a_topic(transport, topic, **{"message.timestamp.after.max.ms": "60000"})
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        messages = [
            replace(each, payload=b"%06d" % n) for n, each in enumerate(counted(topic, count=9))
        ]
        messages[4] = replace(messages[4], headers={"time": tomorrow})
        await transport.publish(messages)
        found = await stored(transport, topic)
        assert numbers(found) == list(range(9))
        assert found[4].headers["time"] == tomorrow
        rebuilds = transport.rebuilds
        await transport.publish([replace(messages[4], id="again", payload=b"000009")])
        assert numbers(await stored(transport, topic)) == list(range(10))
        assert transport.rebuilds == rebuilds  # a producer is not thrown away for each


async def test_a_missing_topic_is_refused_and_made_only_if_that_is_allowed(
    connect: Open, topic: str
) -> None:
    async with connect(provision="false") as transport:
        with pytest.raises(PublishError) as refused:
            await transport.publish(counted(topic, count=2))
        assert all(isinstance(result, Rejected) for result in refused.value.results)
        assert "does not exist" in refused.value.why
    async with connect() as transport:
        await transport.publish(counted(topic, count=2))
        assert len(await stored(transport, topic)) == 2
    async with connect(provision="false") as transport:
        await transport.publish([a_message(topic)])


async def test_whoever_publishes_to_a_new_topic_at_once_shares_one_question(
    connect: Open, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each had asked, one after another: the last of a thousand were out of time before that."""
    asked: list[str] = []
    ensure = Topics.ensure

    async def counted_ensure(self: Topics, name: str) -> bool:
        asked.append(name)
        return await ensure(self, name)

    monkeypatch.setattr(Topics, "ensure", counted_ensure)
    async with connect(partitions=1) as transport:
        messages = counted(topic, count=200)
        await asyncio.gather(*(transport.publish([each]) for each in messages))
        assert len(await stored(transport, topic)) == 200
    assert asked == [topic]


async def test_while_the_broker_is_away_what_goes_to_a_new_topic_is_not_sent_and_not_refused() -> (
    None
):
    """Refused, it would stay in the outbox as failed, for a topic that may well exist."""
    async with private_kafka() as server, on(server.url, publish_seconds=5) as transport:
        await server.kill()
        with pytest.raises(PublishError) as failed:
            await transport.publish([a_message("new", number=0)])
        assert [type(result) for result in failed.value.results] == [NotSent]
        assert "does not exist" not in failed.value.why
        await server.start()
        async with asyncio.timeout(60):
            while results := await results_of(transport, a_message("new", number=1)):
                assert not any(isinstance(result, Rejected) for result in results)
        assert numbers(await stored_once_led(transport, "new")) == [1]


async def test_a_dead_letter_topic_has_as_many_partitions_as_its_topic(
    connect: Open, topic: str
) -> None:
    async with connect(partitions=5) as transport:
        await transport.publish([a_message(topic)])
    async with connect(partitions=2) as transport:
        await transport.publish([a_message(f"{topic}.billing.dlq")])
    reader = AIOKafkaConsumer(bootstrap_servers=list(transport.config.servers))
    await reader.start()
    parts = [TopicPartition(f"{topic}.billing.dlq", number) for number in range(5)]
    assert set((await reader.end_offsets(parts)).values()) == {0, 1}
    await reader.stop()


async def test_a_frozen_broker_leaves_the_outcome_unknown_by_the_deadline() -> None:
    async with private_kafka() as server, on(server.url, publish_seconds=2) as transport:
        first, second = counted("shop", count=4), counted("shop", first=4, count=4)
        await transport.publish(first)
        await server.freeze()
        with pytest.raises(PublishUnknownError) as unknown:
            async with asyncio.timeout(60):  # by its own deadline, for the broker is still frozen
                await transport.publish(second)
        assert all(isinstance(result, Unknown) for result in unknown.value.results)
        with pytest.raises(PublishError) as waiting:
            await transport.publish(counted("shop", first=8, count=1))
        assert [type(result) for result in waiting.value.results] == [NotSent]
        assert transport.trouble is not None
        await server.thaw()
        async with asyncio.timeout(20):
            await recovered(transport)
        await unknown.value.resolve()
        await transport.publish(counted("shop", first=8, count=1))
        assert firsts(numbers(await stored(transport, "shop"))) == list(range(9))


async def recovered(transport: KafkaTransport) -> None:
    """Until it can publish again."""
    while True:
        try:
            await transport.publish([a_message("probe")])
        except PublishError:
            continue
        return


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_key_keeps_its_order_though_the_broker_dies_in_mid_publish(how: str) -> None:
    async with private_kafka() as server, on(server.url, publish_seconds=3) as transport:
        relay = Relay(transport)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(60):
            task = tasks.create_task(relay.run(), name="relay:test")
            await relay.enough.wait()
            await (server.kill() if how == "kill" else server.stop())
            assert not task.done(), "the fault hit nothing under way"
            await relay.trouble.wait()
            await server.start()
        relay.judge(await stored(transport, "shop"))


async def test_a_key_keeps_its_order_through_changes_of_the_leader() -> None:
    """One of three dies and comes back, then another: nobody needs to publish anything again."""
    async with (
        private_kafka(brokers=3) as server,
        on(server.url, replication=3, publish_seconds=15) as transport,
    ):
        relay = Relay(transport)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(90):
            task = tasks.create_task(relay.run(), name="relay:test")
            await relay.enough.wait()
            await server.kill(1)
            assert not task.done(), "the fault hit nothing under way"
            await server.start(1)
            await server.kill(2)
        found = await stored_once_led(transport, "shop")
        relay.judge(found)
        assert not relay.trouble.is_set()
        assert len(found) == len(relay.messages), "the producer drops its own repeats"


class Relay:
    """Publishes as the relay does: what was not confirmed goes again, from the first one on."""

    def __init__(self, transport: KafkaTransport, count: int = 4000) -> None:
        self.messages = [
            replace(a_message("shop", f"k{number % 4}"), payload=b"%06d" % number)
            for number in range(count)
        ]
        self.confirmed: set[str] = set()
        self.enough, self.trouble = asyncio.Event(), asyncio.Event()
        self._transport = transport

    async def run(self) -> None:
        left = list(self.messages)
        while left:
            if len(self.confirmed) >= 500:
                self.enough.set()
            batch, rest = left[:50], left[50:]
            results: Sequence[object] = [Confirmed()] * len(batch)
            try:
                await self._transport.publish(batch)
            except PublishError as error:
                results = error.results
                self.trouble.set()
            again = []
            for message, result in zip(batch, results, strict=True):
                if isinstance(result, Confirmed):
                    self.confirmed.add(message.id)
                else:
                    again.append(message)
            left = again + rest

    def judge(self, found: Sequence[Message]) -> None:
        """All are there, what was confirmed above all, and the first of each are in order."""
        assert self.confirmed == {message.id for message in self.messages}
        assert {message.id for message in found} == self.confirmed
        for key in range(4):
            assert firsts(numbers(found, f"k{key}")) == list(range(key, len(self.messages), 4))


async def test_what_a_thrown_away_producer_held_is_not_delivered_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The read fact T25 rests on: after the unknown nothing of it follows by itself.

    A producer may still land what it holds while it is being stopped (that takes up to 5 s, and
    the next one sends nothing before). So the broker comes back after it was thrown away.
    """
    async with private_kafka() as server, on(server.url, publish_seconds=1) as transport:
        await transport.publish(counted("shop", count=1))
        await server.kill()
        with pytest.raises(PublishUnknownError):
            await transport.publish(counted("shop", first=1, count=3))
        with pytest.raises(PublishError):
            await transport.publish([a_message("shop", number=9)])
        rebuilds = transport.rebuilds
        assert rebuilds == 1
        await until(lambda: "cannot publish" in caplog.text)
        await server.start()
        async with asyncio.timeout(20):
            await recovered(transport)
        assert numbers(await stored(transport, "shop")) == [0]


async def test_one_batch_of_a_partition_is_under_way_at_a_time(connect: Open, topic: str) -> None:
    """So the batches of a call are as many as its bytes need, and their offsets follow."""
    async with connect(partitions=1) as transport:
        body = bytes(30_000)
        await transport.publish([replace(each, payload=body) for each in counted(topic, count=40)])
        found = await stored(transport, topic)
        assert len(found) == 40
        reader = AIOKafkaConsumer(bootstrap_servers=list(transport.config.servers))
        await reader.start()
        try:
            part = TopicPartition(topic, 0)
            assert (await reader.end_offsets([part]))[part] == 40
        finally:
            await reader.stop()


async def test_a_call_larger_than_what_may_be_outstanding_passes(connect: Open, topic: str) -> None:
    async with connect() as transport:
        large = [replace(a_message(topic, f"k{n}"), payload=bytes(1 << 20)) for n in range(40)]
        await transport.publish(large)
        await transport.publish([a_message(topic)])
        assert len(await stored(transport, topic)) == 41
