"""Membership: joining and leaving under load keeps order and loses nothing."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio
from collections.abc import Sequence

import pytest

from eventbus.testing.conformance.transport.member import (
    WITHIN,
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
from eventbus.transport import Delivery


class MembershipCases:
    """Of `TransportSuite`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    async def test_what_is_acknowledged_while_a_revoke_waits_never_comes_again(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, entered(connect, interest) as other:
            await transport.publish(interleaved(topic, keys=4, count=6))
            seen_lost: list[bool] = []

            async def finish_what_runs(member: Member, lost: Sequence[Delivery]) -> None:
                seen_lost.extend(each.lost for each in lost)
                member.ack(held[:12])
                await member.subscription.flush()

            async with joined(transport, interest, finish_what_runs) as one:
                held = await one.receive(24)
                async with joined(other, interest) as two:
                    one.ack(held[:12])  # where nothing is revoked; otherwise harmless
                    await one.subscription.flush()
                    await transport.__aexit__(None, None, None)
                    async with entered(connect) as third:
                        last = [a_message(topic, f"k{key}", 6) for key in range(4)]
                        await third.publish(last)
                    got = await two.receive_until(last)
            assert all(seen_lost)
            assert not set(ids(held[:12])) & set(ids(got))
            assert set(ids(held[12:])) <= set(ids(got))
            assert all(each.redelivered for each in got if each.message.id in ids(held))
            for key in range(4):
                numbers = firsts(of_key(got, f"k{key}"))
                assert numbers == sorted(numbers)

    async def test_members_come_and_go_and_no_key_loses_its_order(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), max_in_flight=9)
        messages = interleaved(topic, keys=10, count=1000)
        handled: dict[str, list[int]] = {f"k{key}": [] for key in range(10)}
        progress, gone = asyncio.Event(), asyncio.Event()
        sent = 0  # of each key

        async def work(member: Member) -> None:
            async for batch in member.batches:
                for delivery in batch:
                    if delivery.lost:
                        break
                    handled[str(delivery.message.key)].append(int(delivery.message.payload))
                    member.ack([delivery])
                progress.set()
                await member.subscription.flush()

        async def come_and_go(rounds: int) -> None:
            for _ in range(rounds):
                async with (
                    entered(connect, interest) as other,
                    asyncio.TaskGroup() as guests,
                    joined(other, interest) as guest,
                ):
                    guests.create_task(work(guest), name="member:guest")
                    progress.clear()
                    await progress.wait()
            gone.set()

        async def publish() -> None:
            nonlocal sent
            while sent < 30 or not gone.is_set():
                progress.clear()  # before: they may be handled before they are confirmed
                await transport.publish(messages[10 * sent : 10 * (sent + 2)])
                sent += 2
                await progress.wait()

        def complete() -> bool:
            return all(len(set(numbers)) == sent for numbers in handled.values())

        async with (
            entered(connect, interest) as transport,
            asyncio.TaskGroup() as running,
            asyncio.timeout(WITHIN),
            joined(transport, interest) as resident,
        ):
            running.create_task(work(resident), name="member:resident")
            async with asyncio.TaskGroup() as load:
                load.create_task(publish(), name="publisher:load")
                load.create_task(come_and_go(4), name="members:guests")
            while not complete():
                progress.clear()
                await progress.wait()
        for numbers in handled.values():
            assert firsts(numbers) == list(range(sent))

    async def test_a_key_is_with_one_member_at_a_time(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"), max_in_flight=5)
        started: list[int] = []
        holding: list[str] = []
        done = asyncio.Event()

        async def work(member: Member, name: str) -> None:
            async for batch in member.batches:
                holding.append(name)
                assert set(holding) == {name}
                started.extend(of_key(batch, "k"))
                for _ in range(5):
                    await member.subscription.flush()  # the other one has its chance
                holding.remove(name)
                member.ack(batch)
                if len(started) == 40:
                    done.set()

        async with (
            entered(connect, interest) as transport,
            entered(connect, interest) as other,
            asyncio.timeout(WITHIN),
            asyncio.TaskGroup() as workers,
            joined(transport, interest) as one,
            joined(other, interest) as two,
        ):
            workers.create_task(work(one, "one"), name="member:one")
            workers.create_task(work(two, "two"), name="member:two")
            await transport.publish(counted(topic, count=40))
            await done.wait()
        assert started == list(range(40))

    async def test_a_member_that_leaves_under_load_hands_over_in_order(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"), max_in_flight=10)
        async with entered(connect, interest) as transport, entered(connect, interest) as other:
            messages = counted(topic, count=60)
            await transport.publish(messages)
            handled: list[int] = []
            for leaving in range(5):
                async with joined(other if leaving % 2 else transport, interest) as member:
                    held = await member.receive(10)
                    member.ack(held[:7])
                    handled += of_key(held[:7], "k")
            async with joined(transport, interest) as member:
                handled += of_key(await member.receive_until(messages[-1:]), "k")
            assert handled == list(range(60))

    async def test_a_partition_that_comes_back_brings_what_had_no_verdict(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, entered(connect, interest) as other:
            await transport.publish(counted(topic, count=5))
            async with joined(transport, interest) as one:
                held = await one.receive(5)
                async with joined(other, interest):
                    for _ in range(5):
                        await one.subscription.flush()  # if there is a revoke, let it end
                if one.told:  # it was revoked: the old deliveries are void, new ones come
                    assert all(each.lost for each in held)
                    one.ack(held)
                    again = await one.receive(5)
                    assert of_key(again, "k") == list(range(5))
                    assert all(each.redelivered for each in again)
                    held = again
                one.ack(held)
            await transport.publish([last := a_message(topic, number=5)])
            async with joined(transport, interest) as member:
                assert ids(await member.receive_until([last])) == [last.id]

    async def test_an_on_lost_that_fails_stops_nobody(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, entered(connect, interest) as other:
            await transport.publish(messages := counted(topic, count=5))

            async def fail(member: Member, lost: Sequence[Delivery]) -> None:
                raise RuntimeError("the pipeline is broken")

            async with joined(transport, interest, fail) as one:
                await one.receive(5)
                async with joined(other, interest) as two:
                    await transport.__aexit__(None, None, None)
                    assert of_key(await two.receive_until(messages[-1:]), "k") == list(range(5))
