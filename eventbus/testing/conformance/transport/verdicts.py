"""Verdicts: what is acknowledged never comes again, everything else does, in order."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio

import pytest

from eventbus.testing.conformance.transport.member import (
    Connect,
    Member,
    a_message,
    an_interest,
    counted,
    entered,
    firsts,
    ids,
    interleaved,
    joined,
    of_key,
    unique,
)


class VerdictCases:
    """Of `TransportSuite`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    async def test_what_was_never_handed_out_is_not_flagged_redelivered(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            await transport.publish(counted(topic, count=10))
            got = await member.receive(10)
            assert not any(each.redelivered or each.lost for each in got)

    async def test_what_has_no_verdict_comes_again_flagged_and_in_order(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            await transport.publish(interleaved(topic, keys=4, count=5))
            async with joined(transport, interest) as member:
                held = await member.receive(20)
            assert all(each.lost for each in held)
            async with joined(transport, interest) as member:
                got = await member.receive(20)
                assert all(each.redelivered for each in got)
                for key in range(4):
                    assert of_key(got, f"k{key}") == list(range(5))

    @pytest.mark.parametrize("sent_by", ["flush", "leaving"])
    async def test_what_is_acknowledged_never_comes_again(
        self, connect: Connect, sent_by: str
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            done = interleaved(topic, keys=4, count=5)
            await transport.publish(done)
            async with joined(transport, interest) as member:
                member.ack(await member.receive(20))
                if sent_by == "flush":
                    await member.subscription.flush()
                    assert await member.subscription.backlog() in {0, None}
            last = [a_message(topic, f"k{key}", 5) for key in range(4)]
            await transport.publish(last)
            async with joined(transport, interest) as member:
                assert sorted(ids(await member.receive_until(last))) == sorted(ids(last))

    async def test_acks_out_of_order_commit_no_gap(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            await transport.publish(counted(topic, count=10))
            async with joined(transport, interest) as member:
                held = await member.receive(10)
                member.ack([held[8], held[5]])
                member.ack([held[0], held[9]])
                member.ack([held[1]])
                await member.subscription.flush()
            await transport.publish([last := a_message(topic, number=10)])
            async with joined(transport, interest) as member:
                got = firsts(of_key(await member.receive_until([last]), "k"))
                assert [number for number in got if number in {2, 3, 4, 6, 7}] == [2, 3, 4, 6, 7]
                assert not {0, 1} & set(got)

    async def test_acks_out_of_order_that_leave_no_gap_all_count(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            await transport.publish(counted(topic, count=10))
            async with joined(transport, interest) as member:
                for delivery in reversed(await member.receive(10)):
                    member.ack([delivery])
            await transport.publish([last := a_message(topic, number=10)])
            async with joined(transport, interest) as member:
                assert ids(await member.receive_until([last])) == [last.id]

    async def test_a_verdict_given_twice_is_harmless(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            await transport.publish(counted(topic, count=10))
            async with joined(transport, interest) as member:
                held = await member.receive(10)
                for _ in range(2):
                    member.ack(held[:3])
                    await member.subscription.flush()
                member.subscription.nack(held[:3])
                await transport.publish([a_message(topic, number=10)])
                held += await member.receive(1)
                member.ack(held[3:4])
            await transport.publish([last := a_message(topic, number=11)])
            async with joined(transport, interest) as member:
                got = of_key(await member.receive_until([last]), "k")
                assert got == [4, 5, 6, 7, 8, 9, 10, 11]

    async def test_a_verdict_after_leaving_counts_for_nothing(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            await transport.publish(counted(topic, count=10))
            async with joined(transport, interest) as former:
                held = await former.receive(10)
            former.ack(held[:5])
            async with joined(transport, interest) as member:
                again = await member.receive(10)
                assert of_key(again, "k") == list(range(10))
                former.ack(held)
                former.subscription.nack(held)
            await transport.publish([last := a_message(topic, number=10)])
            async with joined(transport, interest) as member:
                got = of_key(await member.receive_until([last]), "k")
                assert got == list(range(11))

    @pytest.mark.parametrize("order", ["key", "none"])
    async def test_what_was_given_back_comes_again_at_the_latest_after_leaving(
        self, connect: Connect, order: str
    ) -> None:
        interest = an_interest(topic := unique("topic"), order=order)
        async with entered(connect, interest) as transport:
            await transport.publish(interleaved(topic, keys=3, count=6))
            async with joined(transport, interest) as member:
                held = await member.receive(18)
                member.ack(held[:4])
                member.subscription.nack(held[4:])
            left = ids(held[4:])
            async with joined(transport, interest) as member:
                got: list[str] = []
                numbers: dict[str, list[int]] = {}
                while set(left) - set(got):
                    batch = await member.batch()
                    got += ids(batch)
                    for each in batch:
                        key = str(each.message.key)
                        numbers.setdefault(key, []).append(int(each.message.payload))
                if order == "key":
                    for seen in numbers.values():
                        assert seen == sorted(seen)

    async def test_nothing_of_a_key_overtakes_what_was_given_back(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), max_in_flight=4)
        async with entered(connect, interest) as transport:
            messages = counted(topic, count=12)
            await transport.publish(messages)
            started: list[int] = []

            async def go_on(member: Member) -> None:
                async for batch in member.batches:
                    started.extend(of_key(batch, "k"))

            async with asyncio.TaskGroup() as readers, joined(transport, interest) as member:
                held = await member.receive(4)
                started += of_key(held[:2], "k")
                member.ack(held[:2])
                member.subscription.nack(held[2:])
                readers.create_task(go_on(member), name="member:reader")
                for _ in range(5):
                    await member.subscription.flush()
            async with joined(transport, interest) as member:
                started += of_key(await member.receive_until(messages[-1:]), "k")
            assert firsts(started) == list(range(12))
