"""What is declared, what is refused, where messages go."""

import asyncio
from collections import Counter
from dataclasses import replace

import aio_pika
import pytest

from eventbus.errors import Confirmed, PublishError, Rejected, TransportError
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
    unique,
)
from eventbus.transport import Delivery, HasTopology
from tests.integration.rabbit.conftest import Make, Management


async def test_a_plan_is_empty_once_it_was_applied(make: Make) -> None:
    interests = [an_interest(unique("topic")), an_interest(unique("topic"), order="none")]
    async with make() as transport:
        topology: HasTopology = transport
        changes = await topology.plan(interests)
        assert len(changes) == 6  # an exchange, a queue, one for crashes; twice
        assert not any(change.destructive for change in changes)
        assert all(change.what.startswith("create ") for change in changes)
        await topology.apply(changes)
        assert await topology.plan(interests) == []


async def test_a_queue_has_every_argument_that_its_promises_need(
    make: Make, management: Management
) -> None:
    interest = an_interest(unique("topic"), types=("shop.placed", "user.*"))
    async with make() as transport:
        await transport.examine([interest])
    queue = await management.queue(interest.group)
    assert queue["durable"] is True
    assert queue["arguments"] == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 50,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{interest.group}.crashed",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-single-active-consumer": True,
    }
    assert (await management.queue(f"{interest.group}.crashed"))["type"] == "quorum"


async def test_a_queue_with_other_arguments_is_refused_and_never_deleted(make: Make) -> None:
    interest = an_interest(topic := unique("topic"))
    other = replace(interest, order="none")
    async with make() as transport:
        await transport.examine([interest])
        await transport.publish(counted(topic, count=3))
        with pytest.raises(TransportError) as refused:
            async with joined(transport, other):
                pass
        assert refused.value.code == "EB2202"
        assert "x-single-active-consumer" in refused.value.why
        [finding] = [each for each in await transport.examine([other]) if each.level == "refuse"]
        assert finding.code == "EB2202"
        changes = await transport.plan([other])
        assert any(each.destructive for each in changes)
        with pytest.raises(TransportError) as kept:
            await transport.apply([each for each in changes if each.destructive])
        assert kept.value.code == "EB2202"
        async with joined(transport, interest) as member:
            assert of_key(await member.receive(3), "k") == [0, 1, 2]


async def test_a_type_that_nobody_wants_is_rejected_and_the_rest_is_confirmed(make: Make) -> None:
    interest = an_interest(topic := unique("topic"), types=("suite.counted",))
    async with make() as transport:
        await transport.examine([interest])
        messages = counted(topic, count=5)
        messages[2] = replace(messages[2], type="suite.unwanted")
        with pytest.raises(PublishError) as refused:
            await transport.publish(messages)
        assert refused.value.code == "EB2101"
        results = refused.value.results
        assert [type(each) for each in results] == [
            Confirmed,
            Confirmed,
            Rejected,
            Confirmed,
            Confirmed,
        ]
        assert isinstance(results[2], Rejected)
        assert "NO_ROUTE" in results[2].reason
        async with joined(transport, interest) as member:
            got = await member.receive(4)
        assert of_key(got, "k") == [0, 1, 3, 4]


async def test_a_type_that_may_go_unrouted_is_confirmed(make: Make) -> None:
    async with make(allow_unrouted="audit.*") as transport:
        await transport.publish([a_message(unique("topic"), type="audit.seen")])
        with pytest.raises(PublishError):
            await transport.publish([a_message(unique("topic"), type="other.seen")])


@pytest.mark.parametrize("topic", ["t" * 128, "ümlaut"])
async def test_a_name_that_amqp_does_not_take_is_rejected(make: Make, topic: str) -> None:
    async with make() as transport:
        with pytest.raises(PublishError) as refused:
            await transport.publish([a_message(topic)])
        assert isinstance(refused.value.results[0], Rejected)
        assert transport.trouble is None


async def test_an_exchange_of_another_kind_is_rejected_and_stops_nobody_else(
    make: Make, rabbit_url: str
) -> None:
    interest = an_interest(topic := unique("topic"))
    connection = await aio_pika.connect(rabbit_url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_exchange(wrong := unique("fanout"), "fanout", durable=True)
    async with make() as transport:
        await transport.examine([interest])
        with pytest.raises(PublishError) as refused:
            await transport.publish([a_message(wrong), a_message(topic)])
        assert [type(each) for each in refused.value.results] == [Rejected, Confirmed]


async def test_a_dead_letter_goes_to_a_queue_that_is_made_for_it(
    make: Make, management: Management, rabbit_url: str
) -> None:
    letter = a_message(f"{unique('topic')}.billing.dlq")
    async with make() as transport:
        await transport.publish([letter])
        await transport.publish([letter])
    assert (await management.queue(letter.topic))["type"] == "quorum"
    connection = await aio_pika.connect(rabbit_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(letter.topic)
        found = await queue.get(timeout=30)
        assert found is not None
        assert found.headers["ce-id"] == letter.id
        assert found.body == letter.payload


async def test_shards_share_the_keys_and_each_key_keeps_its_order(make: Make) -> None:
    interest = an_interest(topic := unique("topic"))
    options = {"shards": f"{interest.group}:4"}
    messages = interleaved(topic, keys=60, count=5)
    async with make(**options) as transport, make(**options) as other:
        assert "EB2207" in [each.code for each in await transport.examine([interest])]
        await transport.publish(messages)
        async with joined(transport, interest) as one:
            got = await one.receive(100)
            one.ack(got[:50])
            async with joined(other, interest) as two:
                await transport.__aexit__(None, None, None)
                left = {message.id for message in messages} - set(ids(got[:50]))
                rest: list[Delivery] = []
                while left - set(ids(rest)):
                    batch = await two.batch()
                    two.ack(batch)
                    rest += batch
        partitions = Counter(each.partition for each in [*got, *rest])
        assert len(partitions) == 4
        for key in range(60):
            seen = [each for each in [*got[:50], *rest] if each.message.key == f"k{key}"]
            assert firsts(of_key(seen, f"k{key}")) == list(range(5))
            assert len({each.partition for each in seen}) == 1


async def test_a_member_that_comes_later_gets_its_share_of_the_shards(make: Make) -> None:
    interest = an_interest(topic := unique("topic"))
    options = {"shards": f"{interest.group}:4", "spread_interval": 0.2}
    served: dict[str, set[str]] = {"one": set(), "two": set()}
    latest: dict[str, str] = {}
    numbers: dict[str, list[int]] = {}
    spread = asyncio.Event()

    async def work(member: Member, name: str) -> None:
        async for batch in member.batches:
            for each in batch:
                numbers.setdefault(str(each.message.key), []).append(int(each.message.payload))
                latest[each.partition] = name
                served[name].add(each.partition)
            member.ack(batch)
            if sorted(latest.values()) == ["one", "one", "two", "two"]:
                spread.set()

    async def publish() -> None:
        number = 0
        while not spread.is_set():
            await transport.publish([a_message(topic, f"k{key}", number) for key in range(40)])
            number += 1

    async with make(**options) as transport, make(**options) as other:
        await transport.examine([interest])
        async with (
            asyncio.TaskGroup() as workers,
            asyncio.timeout(30),
            joined(transport, interest) as one,
        ):
            workers.create_task(work(one, "one"), name="member:one")
            publishing = workers.create_task(publish(), name="publisher:test")
            async with asyncio.timeout(20):
                while len(served["one"]) < 4:
                    await one.subscription.flush()
            async with joined(other, interest) as two:
                workers.create_task(work(two, "two"), name="member:two")
                await spread.wait()
                await publishing
    for seen in numbers.values():
        assert firsts(seen) == sorted(set(seen))


async def test_a_user_who_may_not_configure_uses_what_is_there(
    make: Make,
) -> None:
    interest = an_interest(topic := unique("topic"))
    async with make() as transport:
        await transport.examine([interest])
    async with make(declare="false") as transport:
        findings = await transport.examine([interest])
        assert not [each for each in findings if each.level == "refuse"]
        await transport.publish([message := a_message(topic)])
        async with joined(transport, interest) as member:
            assert ids(await member.receive(1, ack=True)) == [message.id]
        missing = an_interest(unique("topic"))
        [finding] = [each for each in await transport.examine([missing]) if each.level == "refuse"]
        assert finding.code == "EB2205"
        with pytest.raises(PublishError) as refused:
            await transport.publish([a_message(unique("topic"))])
        assert isinstance(refused.value.results[0], Rejected)


async def test_what_came_back_too_often_is_in_the_queue_for_crashes(
    make: Make, management: Management
) -> None:
    interest = an_interest(topic := unique("topic"), order="none")
    async with make() as transport:
        await transport.examine([interest])
        await transport.publish([a_message(topic)])
        async with joined(transport, interest) as member:
            for _ in range(51):
                member.subscription.nack(await member.receive(1))
                await member.subscription.flush()

            async def crashed() -> int:
                queue = await management.queue(f"{interest.group}.crashed")
                return int(str(queue.get("messages", 0)))

            async with asyncio.timeout(20):
                while not await crashed():
                    await member.subscription.flush()


async def test_two_with_one_id_in_flight_do_not_confuse_each_other(make: Make) -> None:
    interest = an_interest(topic := unique("topic"), types=("suite.counted",))
    message = a_message(topic)
    async with make() as transport:
        await transport.examine([interest])
        unwanted = replace(message, type="suite.unwanted")
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(
                *(transport.publish([each]) for each in [message, unwanted] * 5),
                return_exceptions=True,
            )
        assert [outcome is None for outcome in outcomes] == [True, False] * 5


async def test_members_of_an_unordered_group_share_and_one_that_drains_gives_back(
    make: Make,
) -> None:
    interest = an_interest(topic := unique("topic"), order="none", max_in_flight=10)
    async with make() as transport, make() as other:
        await transport.examine([interest])
        messages = counted(topic, count=40)
        await transport.publish(messages)
        async with joined(other, interest) as two:
            async with joined(transport, interest) as one:
                held = await one.receive(10)
                one.ack(held[:5])
                one.subscription.nack(held[5:])
            rest = await collected(two, {m.id for m in messages} - set(ids(held[:5])))
        assert set(ids(held[:5])) | set(ids(rest)) >= {m.id for m in messages}


async def collected(member: Member, wanted: set[str]) -> list[Delivery]:
    got: list[Delivery] = []
    left = set(wanted)
    while left:
        batch = await member.batch()
        member.ack(batch)
        got += batch
        left -= set(ids(batch))
    return got
