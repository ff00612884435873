"""Leaving, health and findings: nothing is left running, nothing is hidden."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio
from collections.abc import Sequence

import pytest

from eventbus.errors import Finding
from eventbus.testing.conformance.transport.member import (
    WITHIN,
    Connect,
    Member,
    a_message,
    an_interest,
    counted,
    entered,
    ids,
    joined,
    of_key,
    tasks,
    unique,
)
from eventbus.transport import Delivery

LEAVE_SECONDS = 10.0  # the contract's, for a subscription


class LeavingCases:
    """Of `TransportSuite`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    @pytest.mark.parametrize("state", ["idle", "busy", "waiting"])
    async def test_leaving_leaves_nothing_running(self, connect: Connect, state: str) -> None:
        interest = an_interest(topic := unique("topic"))
        before = tasks()
        async with (
            entered(connect, interest) as transport,
            asyncio.timeout(LEAVE_SECONDS),
            asyncio.TaskGroup() as readers,
            joined(transport, interest) as member,
        ):
            if state == "busy":
                await transport.publish(counted(topic, count=20))
                await member.receive(20)
            elif state == "waiting":
                await _wait_in_the_iterator(readers, member)
        assert tasks() <= before

    async def test_leaving_does_not_wait_for_an_on_lost_that_hangs(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, entered(connect, interest) as other:
            before = tasks()
            await transport.publish(counted(topic, count=3))
            never = asyncio.Event()

            async def hang(member: Member, lost: Sequence[Delivery]) -> None:
                await never.wait()

            async with asyncio.timeout(LEAVE_SECONDS), joined(transport, interest, hang) as member:
                await member.receive(3)
                async with joined(other, interest) as heir:
                    await member.subscription.flush()
                    await transport.__aexit__(None, None, None)
                    assert of_key(await heir.receive(3), "k") == [0, 1, 2]
            assert tasks() <= before

    async def test_the_iterator_ends_when_the_member_has_left(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            await transport.publish(counted(topic, count=3))
            async with joined(transport, interest) as member:
                await member.receive(3)
            async with asyncio.timeout(WITHIN):
                assert [batch async for batch in member.batches] == []

    async def test_closing_the_transport_leaves_its_groups(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as other:
            before = tasks()
            async with entered(connect, interest) as transport, joined(transport, interest) as gone:
                await transport.publish(counted(topic, count=6))
                held = await gone.receive(6)
                gone.ack(held[:2])
                await transport.__aexit__(None, None, None)
                assert all(each.lost for each in held[2:])
                assert tasks() <= before
                async with joined(other, interest) as member:
                    assert of_key(await member.receive(4), "k") == [2, 3, 4, 5]

    async def test_closing_twice_is_harmless(self, connect: Connect) -> None:
        async with entered(connect) as transport:
            await transport.__aexit__(None, None, None)
        await transport.__aexit__(None, None, None)
        await connect().__aexit__(None, None, None)

    async def test_a_cancelled_member_leaves_and_gives_back(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            before = tasks()
            held = asyncio.Event()

            async def consume() -> None:
                async with joined(transport, interest) as member:
                    await member.receive(5)
                    held.set()
                    await member.receive(1)

            task = asyncio.create_task(consume(), name="member:cancelled")
            await transport.publish(counted(topic, count=5))
            async with asyncio.timeout(WITHIN):
                await held.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert tasks() <= before
            async with joined(transport, interest) as member:
                assert of_key(await member.receive(5), "k") == list(range(5))

    async def test_examine_answers_before_and_after_entering(self, connect: Connect) -> None:
        interest = an_interest(unique("topic"))
        idle = connect()
        findings = list(await idle.examine([interest]))
        async with entered(connect, interest) as transport:
            findings += await transport.examine([interest])
            durable = transport.capabilities.durable
        assert all(isinstance(finding, Finding) for finding in findings)
        assert all(each.code and each.what and each.why and each.next for each in findings)
        assert durable or "EB1111" in [finding.code for finding in findings]
        assert "refuse" not in [finding.level for finding in findings]

    async def test_a_working_transport_is_in_no_trouble(self, connect: Connect) -> None:
        async with entered(connect) as transport:
            assert transport.trouble is None

    async def test_a_member_may_join_again(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            for number in range(5):
                async with joined(transport, interest) as member:
                    await transport.publish([message := a_message(topic, number=number)])
                    assert ids(await member.receive(1, ack=True)) == [message.id]


async def _wait_in_the_iterator(readers: asyncio.TaskGroup, member: Member) -> None:
    """Return when a reader of this member asked for what is not there."""
    asking = asyncio.Event()

    async def read() -> None:
        asking.set()
        async for _ in member.batches:
            pass

    readers.create_task(read(), name="member:waiting")
    await asking.wait()
