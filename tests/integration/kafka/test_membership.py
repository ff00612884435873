"""Members of a group: killed, stopped, slow, static; what the next owner knows."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition

from eventbus.errors import TransportError
from eventbus.testing.conformance.transport.member import (
    Member,
    a_message,
    an_interest,
    counted,
    firsts,
    interleaved,
    joined,
    of_key,
)
from eventbus.transport import Delivery, Interest
from eventbus_kafka.subscription import KafkaSubscription
from tests.integration.kafka.conftest import Open


@asynccontextmanager
async def a_process(
    url: str, interest: Interest, acks: int, instance: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A member in a process of its own; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.kafka.child"),
        *(url, interest.group, interest.topics[0], str(acks), instance),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def says(process: asyncio.subprocess.Process, word: str) -> list[str]:
    """Its lines until it says so, the last one included."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(40):
        while not lines or not lines[-1].startswith(word):
            line = (await process.stdout.readline()).decode().strip()
            assert line, f"it ended after {lines}"
            lines.append(line)
    return lines


async def test_what_a_killed_member_had_comes_again_flagged_and_nothing_else(
    connect: Open, kafka_url: str, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group, max_in_flight=50)
    async with connect(partitions=1) as transport:
        await transport.publish(counted(topic, count=30))
        async with a_process(kafka_url, interest, acks=20) as process:
            await says(process, "flushed")
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with joined(transport, interest) as member:
                got = await member.receive(10, ack=True)
                assert of_key(got, "k") == list(range(20, 30))
                assert all(delivery.redelivered for delivery in got)
                await transport.publish(counted(topic, first=30, count=300))
                more = await member.receive(300, ack=True)
        limit = 30 + 4 * 50  # what the killed one had announced, and no more
        assert [each.redelivered for each in more] == [
            int(each.message.payload) < limit for each in more
        ]


async def test_acknowledged_above_a_gap_does_not_come_again_after_a_kill(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with connect(partitions=1) as transport:
        await transport.publish(counted(topic, count=30))
        async with joined(transport, interest) as member:
            held = await member.receive(30)
            member.ack([*held[3:10], *held[12:28]])
            await member.subscription.flush()
        async with joined(transport, interest) as member:
            got = await member.receive(7)
            assert of_key(got, "k") == [0, 1, 2, 10, 11, 28, 29]
            assert all(delivery.redelivered for delivery in got)


async def test_a_clean_leave_flags_nothing(connect: Open, topic: str, group: str) -> None:
    interest = an_interest(topic, group=group)
    async with connect() as transport:
        await transport.publish(interleaved(topic, keys=4, count=5))
        async with joined(transport, interest) as member:
            await member.receive(20, ack=True)
        await transport.publish(interleaved(topic, keys=4, count=5))
        async with joined(transport, interest) as member:
            assert not any(each.redelivered for each in await member.receive(20))
            assert await member.subscription.backlog() == 20


async def test_what_the_client_hands_over_while_a_member_leaves_comes_again(
    connect: Open, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's position is above it then, and must not be committed."""
    interest = an_interest(topic, group=group)
    async with connect(partitions=1) as transport:
        await transport.apply(await transport.plan([interest]))
        async with joined(transport, interest) as member:
            assert isinstance(member.subscription, KafkaSubscription)
            membership = member.subscription._membership
            asked, left = asyncio.Event(), asyncio.Event()
            client = membership.client
            assert client is not None
            take = client.getmany

            async def taken_as_it_leaves(*parts: TopicPartition, **options: Any) -> Any:
                asked.set()
                if got := await take(*parts, **options):
                    membership._let_go()  # what leaving does first, in the same turn of the loop
                    left.set()
                return got

            monkeypatch.setattr(client, "getmany", taken_as_it_leaves)
            async with asyncio.timeout(10):
                await asked.wait()
                await transport.publish(counted(topic, count=8))
                await left.wait()
        async with joined(transport, interest) as member:
            assert of_key(await member.receive(8), "k") == list(range(8))


async def test_a_revoke_waits_for_what_runs_and_its_verdict_counts(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with connect(partitions=1) as transport, connect() as other:
        await transport.publish(counted(topic, count=5))
        running = asyncio.Event()

        async def finish(member: Member, lost: Sequence[Delivery]) -> None:
            running.set()
            await asyncio.sleep(0)
            member.ack(lost)

        async with joined(transport, interest, finish) as one:
            await one.receive(5)
            async with joined(other, interest) as two:
                async with asyncio.timeout(30):
                    await running.wait()
                await transport.publish([last := a_message(topic, number=5)])
                winner = await _first([one, two], last.id)
                assert of_key(winner, "k") == [5]


async def _first(members: Sequence[Member], id: str) -> list[Delivery]:
    """What whoever has the partition receives."""
    tasks = [
        asyncio.create_task(member.receive(1), name=f"member:{number}")
        for number, member in enumerate(members)
    ]
    async with asyncio.timeout(20):
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.wait(tasks)
    got = done.pop().result()
    assert [each.message.id for each in got] == [id]
    return got


async def test_a_revoke_does_not_wait_longer_than_its_deadline(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with (
        connect(partitions=1, rebalance_seconds=17) as transport,
        connect(rebalance_seconds=17) as other,
    ):
        await transport.publish(counted(topic, count=3))
        never = asyncio.Event()

        async def hang(member: Member, lost: Sequence[Delivery]) -> None:
            await never.wait()

        async with joined(transport, interest, hang) as one:
            held = await one.receive(3)
            async with joined(other, interest):
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(15):
                    while not one.told:
                        await one.subscription.flush()
                    _, deadline = one.told[0]
                    assert deadline - loop.time() <= 2.1
                    assert isinstance(one.subscription, KafkaSubscription)
                    while one.subscription.rebalances < 2:
                        await one.subscription.flush()
                one.ack(held)
                assert one.subscription.late == 3


async def test_a_stopped_member_that_goes_on_later_changes_nothing(
    connect: Open, kafka_url: str, topic: str, group: str
) -> None:
    """SIGSTOP past the session timeout: the other one takes over; then SIGCONT."""
    interest = an_interest(topic, group=group)
    async with connect(partitions=1) as transport:
        await transport.publish(counted(topic, count=10))
        async with a_process(kafka_url, interest, acks=1000) as process:
            await says(process, "got")
            process.send_signal(signal.SIGSTOP)
            async with joined(transport, interest) as member:
                got = await member.receive(10, ack=True)
                assert firsts(of_key(got, "k")) == list(range(10))
                await member.subscription.flush()
                process.send_signal(signal.SIGCONT)
                await says(process, "lost")
        async with joined(transport, interest) as member:
            await transport.publish([last := a_message(topic, number=10)])
            assert [each.message.id for each in await member.receive(1)] == [last.id]


async def test_a_static_member_that_restarts_causes_no_rebalance(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with (
        connect(group_instance_id="pod-0") as transport,
        connect(group_instance_id="pod-1") as other,
    ):
        await transport.publish(interleaved(topic, keys=8, count=2))
        async with joined(transport, interest) as resident:
            async with joined(other, interest) as guest:
                resident.ack(await resident.receive(1))
                await guest.subscription.flush()
            assert isinstance(resident.subscription, KafkaSubscription)
            before = resident.subscription.rebalances
            async with joined(other, interest) as guest:
                assert await guest.subscription.backlog() is not None
                await resident.subscription.flush()
            assert resident.subscription.rebalances == before


async def test_two_processes_under_one_instance_id_end_with_an_error(
    connect: Open, topic: str, group: str
) -> None:
    interest = an_interest(topic, group=group)
    async with (
        connect(group_instance_id="pod-0", commit_seconds=0.1) as transport,
        connect(group_instance_id="pod-0", commit_seconds=0.1) as other,
    ):
        await transport.publish(counted(topic, count=3))

        async def consume(member: Member) -> None:
            async for batch in member.batches:
                member.ack(batch)
                await transport.publish(counted(topic, count=3))

        async with joined(transport, interest) as one, joined(other, interest) as two:
            tasks = [
                asyncio.create_task(consume(member), name="member:twin") for member in (one, two)
            ]
            async with asyncio.timeout(60):
                done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.wait(tasks)
        with pytest.raises(TransportError) as twice:
            done.pop().result()
        assert twice.value.code == "EB2309"
        assert "pod-0" in twice.value.what
