"""Subscribe: every group gets everything it asked for, in bounded batches."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio

import pytest

from eventbus.testing.conformance.transport.member import (
    WITHIN,
    BreakEnvelope,
    Connect,
    Member,
    a_message,
    an_interest,
    counted,
    entered,
    ids,
    interleaved,
    joined,
    needs,
    of_key,
    unique,
)
from eventbus.transport import Delivery


class SubscribingCases:
    """Of `TransportSuite`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    async def test_each_group_gets_each_message_once(self, connect: Connect) -> None:
        topic = unique("topic")
        one, two = an_interest(topic), an_interest(topic)
        async with (
            entered(connect, one, two) as transport,
            joined(transport, one) as first,
            joined(transport, two) as second,
        ):
            messages = interleaved(topic, keys=5, count=20)
            await transport.publish(messages)
            last = [a_message(topic, f"k{key}", 20) for key in range(5)]
            await transport.publish(last)
            for member in (first, second):
                got = await member.receive_until(last)
                assert sorted(ids(got)) == sorted(ids([*messages, *last]))
                for key in range(5):
                    assert of_key(got, f"k{key}") == list(range(21))

    async def test_a_group_gets_nothing_of_other_topics(self, connect: Connect) -> None:
        mine, other = unique("topic"), unique("topic")
        interest = an_interest(mine)
        async with (
            entered(connect, interest, an_interest(other)) as transport,
            joined(transport, interest) as member,
        ):
            await transport.publish([a_message(other), wanted := a_message(mine)])
            assert ids(await member.receive_until([wanted])) == [wanted.id]

    async def test_a_group_may_have_several_topics(self, connect: Connect) -> None:
        topics = (unique("topic"), unique("topic"))
        interest = an_interest(topics[0], topics=topics)
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            messages = [a_message(topic, number=number) for topic in topics for number in range(5)]
            await transport.publish(messages)
            assert sorted(ids(await member.receive(10))) == sorted(ids(messages))

    async def test_members_share_the_messages_of_a_group(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), order="none", max_in_flight=5)
        async with entered(connect, interest) as transport, entered(connect, interest) as other:
            messages = interleaved(topic, keys=40, count=2)
            shares: list[list[str]] = [[], []]
            done = asyncio.Event()

            async def work(member: Member, share: list[str]) -> None:
                async for batch in member.batches:
                    share += ids(batch)
                    member.ack(batch)
                    if len(shares[0]) + len(shares[1]) >= len(messages):
                        done.set()
                    await member.subscription.flush()

            async with (
                asyncio.timeout(WITHIN),
                asyncio.TaskGroup() as workers,
                joined(transport, interest) as one,
                joined(other, interest) as two,
            ):
                workers.create_task(work(one, shares[0]), name="member:one")
                workers.create_task(work(two, shares[1]), name="member:two")
                await transport.publish(messages)
                await done.wait()
            assert all(shares)
            assert sorted(shares[0] + shares[1]) == sorted(ids(messages))

    async def test_a_new_group_sees_the_history_if_it_starts_at_the_earliest(
        self, connect: Connect
    ) -> None:
        topic = unique("topic")
        async with entered(connect, an_interest(topic)) as transport:
            needs(transport, "replays_history")
            await transport.publish(counted(topic, count=5))
            async with joined(transport, an_interest(topic, start="earliest")) as member:
                got = await member.receive(5)
            assert of_key(got, "k") == list(range(5))
            assert not any(each.redelivered for each in got)

    async def test_a_new_group_sees_no_history_if_it_starts_at_the_latest(
        self, connect: Connect
    ) -> None:
        topic = unique("topic")
        async with entered(connect, an_interest(topic)) as transport:
            await transport.publish(counted(topic, count=5))
            interest = an_interest(topic, start="latest")
            async with entered(connect, interest) as other, joined(other, interest) as member:
                await transport.publish([new := a_message(topic, number=5)])
                assert ids(await member.receive(1)) == [new.id]

    async def test_a_group_goes_on_where_it_was_whatever_its_start_says(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"), start="latest")
        async with entered(connect, interest) as transport:
            async with joined(transport, interest):
                pass
            await transport.publish(counted(topic, count=3))
            async with joined(transport, interest) as member:
                assert of_key(await member.receive(3), "k") == [0, 1, 2]

    async def test_a_member_holds_no_more_than_it_asked_for(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), max_in_flight=7)
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            await transport.publish(counted(topic, count=40))
            got: list[Delivery] = []
            held: list[Delivery] = []
            while len(got) < 40:
                batch = await member.batch()
                got += batch
                held += batch
                assert len(held) <= 7
                member.ack(held[:1])
                del held[:1]
            assert of_key(got, "k") == list(range(40))

    async def test_not_asking_loses_nothing(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), max_in_flight=5)
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            await transport.publish(counted(topic, count=20))
            first = await member.receive(5)
            await transport.publish(counted(topic, first=20, count=80))
            member.ack(first)
            rest = await member.receive(95, ack=True)
            assert of_key([*first, *rest], "k") == list(range(100))
            assert member.told == []

    async def test_a_broken_envelope_arrives_in_its_place_and_says_why(
        self, connect: Connect, break_envelope: BreakEnvelope
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            await transport.publish([before := a_message(topic, number=0)])
            await break_envelope(a_message(topic, number=1))
            await transport.publish([after := a_message(topic, number=2)])
            got = await member.receive_until([after])
            assert [bool(each.malformed) for each in got] == [False, True, False]
            assert got[0].message == before
            assert got[1].message.payload == b"1"

    async def test_a_group_gets_only_the_types_it_asked_for(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), types=("suite.one", "user.*"))
        everything = an_interest(topic)  # or the other types would have no way to go
        types = ("suite.other", "suite.one", "user.created", "users.created", "suite.one")
        async with entered(connect, interest, everything) as transport:
            needs(transport, "filters_types")
            async with joined(transport, interest) as member:
                messages = [
                    a_message(topic, number=number, type=name) for number, name in enumerate(types)
                ]
                await transport.publish(messages)
                got = await member.receive_until([messages[-1]])
                assert of_key(got, "k") == [1, 2, 4]

    async def test_origins_are_distinct_and_stay_with_their_message(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            await transport.publish(interleaved(topic, keys=10, count=5))
            got = await member.receive(50)
            assert len({(each.partition, each.offset) for each in got}) == len(got)
            for key in range(10):
                partitions = {each.partition for each in got if each.message.key == f"k{key}"}
                assert len(partitions) == 1
