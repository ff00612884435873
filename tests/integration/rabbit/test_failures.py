"""Broken connections, channels, brokers: nothing confirmed is lost, and it works again in time."""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventbus.errors import (
    Confirmed,
    NotSent,
    PublishError,
    PublishUnknownError,
    TransportError,
    Unknown,
)
from eventbus.message import Message
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
    unique,
)
from eventbus.testing.services import RabbitServer
from eventbus.transport import Delivery
from eventbus_rabbit import RabbitTransport
from tests.faults.proxy import Blackhole, FaultProxy, Swallow, every
from tests.integration.rabbit.conftest import Make, Management, made
from tests.integration.rabbit.waiting import until, until_well


@asynccontextmanager
async def known(transport: RabbitTransport, *interests: Any) -> Any:
    """Entered, and the queues are there."""
    async with transport:
        await transport.examine(interests)
        yield transport


async def published_at_last(transport: RabbitTransport, messages: Sequence[Message]) -> None:
    """As the outbox does it: what is not confirmed is sent again, under the same ids."""
    left = list(messages)
    async with asyncio.timeout(40):
        while left:
            try:
                await transport.publish(left)
            except PublishError as error:
                left = [
                    message
                    for message, result in zip(left, error.results, strict=True)
                    if not isinstance(result, Confirmed)
                ]
            else:
                return


async def test_a_broker_that_restarts_loses_nothing_and_is_used_again_within_10_seconds(
    own_server: RabbitServer,
) -> None:
    interest = an_interest(topic := unique("topic"))
    messages = interleaved(topic, keys=4, count=50)
    async with known(made(own_server.url, publish_timeout=3), interest) as transport:
        async with joined(transport, interest) as member:
            before = tasks()
            await transport.publish(messages[:80])
            held = await member.receive(80)
            member.ack(held[:40])
            await member.subscription.flush()
            await own_server.restart()
            assert all(each.lost for each in held[40:])
            await published_at_last(transport, messages[80:])
            await until_well(transport, within=10)
            assert transport.rebuilds >= 2  # what publishes and what consumes
            got = await member.receive_until(messages[40:])
            await until(lambda: len(tasks()) <= len(before))
        assert not set(ids(held[:40])) & set(ids(got))
        assert [deadline for _, deadline in member.told] == [float("inf")]
        for key in range(4):
            numbers = firsts(of_key([*held[:40], *got], f"k{key}"))
            assert numbers == list(range(50))


async def test_what_was_confirmed_survives_a_broker_that_was_killed(
    own_server: RabbitServer,
) -> None:
    interest = an_interest(topic := unique("topic"))
    messages = counted(topic, count=200)
    confirmed: list[Message] = []
    async with known(made(own_server.url, publish_timeout=5), interest) as transport:
        # A quorum queue made within the last second does not survive SIGKILL (3.10.8, measured).
        await own_server.restart()

        async def publish() -> None:
            for start in range(0, 200, 10):
                await published_at_last(transport, messages[start : start + 10])
                confirmed.extend(messages[start : start + 10])

        publishing = asyncio.create_task(publish(), name="publisher:test")
        await until(lambda: len(confirmed) >= 50)
        await own_server.kill()
        await own_server.start()
        await publishing
        await until_well(transport, within=30)  # after a kill, not only a cut
        async with joined(transport, interest) as member:
            got = await member.receive_until(messages)
        assert firsts(of_key(got, "k")) == list(range(200))


async def test_an_alarm_blocks_publishers_and_nobody_else(own_server: RabbitServer) -> None:
    interest = an_interest(topic := unique("topic"))
    url = own_server.url
    async with known(made(url, publish_timeout=1), interest) as transport:
        async with joined(transport, interest) as member:
            await transport.publish(counted(topic, count=10))
            await own_server.control("set_vm_memory_high_watermark", "absolute", "1")
            try:
                with pytest.raises(PublishError):  # the first one meets the alarm on its way
                    for number in range(10, 20):
                        await transport.publish([a_message(topic, number=number)])
                with pytest.raises(PublishError) as refused:
                    await transport.publish([a_message(topic, number=20)])
                assert list(refused.value.results) == [NotSent()]
                assert refused.value.code == "EB2106"
                assert transport.trouble is not None
                assert len(await member.receive(10, ack=True)) >= 10
                await member.subscription.flush()
            finally:
                await own_server.control("set_vm_memory_high_watermark", "0.4")
            last = a_message(topic, number=21)
            await published_at_last(transport, [last])
            await member.receive_until([last])
            await until_well(transport)


async def test_a_cut_connection_gives_back_what_had_no_verdict_and_tells_so(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    interest = an_interest(topic := unique("topic"))
    async with known(make(proxied_url), interest) as transport:
        await transport.publish(counted(topic, count=10))
        async with joined(transport, interest) as member:
            held = await member.receive(10)
            member.ack(held[:4])
            await member.subscription.flush()
            assert proxy.cut_all() == 2
            again = await member.receive(6)
            assert of_key(again, "k") == [4, 5, 6, 7, 8, 9]
            assert all(each.redelivered and not each.lost for each in again)
            assert all(each.lost for each in held[4:])
            [(lost, deadline)] = member.told
            assert ids(lost) == ids(held[4:])
            assert deadline == float("inf")
            member.ack(held)  # too late: the tags of the old channel mean nothing
            member.ack(again)
            await member.subscription.flush()
            assert await member.subscription.backlog() == 0
            assert member.subscription.late == 10  # type: ignore[attr-defined]  # the adapter's own


async def test_a_channel_that_the_broker_closes_concerns_its_group_alone(make: Make) -> None:
    topic = unique("topic")
    one, two = an_interest(topic), an_interest(topic)
    async with known(make(), one, two) as transport:
        await transport.publish(counted(topic, count=5))
        async with joined(transport, one) as first, joined(transport, two) as second:
            held, other = await first.receive(5), await second.receive(5)
            await held[0].intake.channel.basic_ack(999)  # type: ignore[attr-defined]  # an unknown tag
            again = await first.receive(5)
            assert of_key(again, "k") == list(range(5))
            assert all(each.lost for each in held)
            assert not any(each.lost for each in other)
            second.ack(other)
            await second.subscription.flush()
            assert await second.subscription.backlog() == 0
            assert second.told == []


async def test_a_deleted_queue_is_made_again(make: Make, management: Management) -> None:
    interest = an_interest(topic := unique("topic"))
    async with known(make(), interest) as transport, joined(transport, interest) as member:
        await transport.publish([first := a_message(topic)])
        await member.receive_until([first])
        await management.ask("DELETE", f"queues/{{vhost}}/{interest.group}")
        last = a_message(topic, number=1)
        await published_when_routed(transport, last)
        await member.receive_until([last])
        await until_well(transport)


async def published_when_routed(transport: RabbitTransport, message: Message) -> None:
    """There is no queue for a moment: it is refused until there is."""
    async with asyncio.timeout(30):
        while True:
            try:
                await transport.publish([message])
            except PublishError as error:
                if error.code != "EB2101":
                    raise
            else:
                return


async def test_a_frozen_broker_means_unknown_by_the_deadline_and_first_ones_stay_in_order(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    interest = an_interest(topic := unique("topic"))
    async with known(make(proxied_url, publish_timeout=2), interest) as transport:
        before = tasks()
        messages = counted(topic, count=30)
        await transport.publish(messages[:10])
        proxy.rule(toward="server", when=every(), do=Blackhole(), times=1)
        with pytest.raises(PublishUnknownError) as lost:
            async with asyncio.timeout(60):  # by its own deadline, for nothing is answered
                await transport.publish(messages[10:20])
        assert all(isinstance(each, Unknown) for each in lost.value.results)
        assert proxy.hits
        proxy.heal()
        await lost.value.resolve()
        await transport.publish(messages[20:])
        await until_well(transport, within=10)
        async with joined(transport, interest) as member:
            got = await member.receive_until(messages[-1:])
        assert firsts(of_key(got, "k")) == list(range(30))
        await until(lambda: len(tasks()) <= len(before))


async def test_a_lost_confirm_means_unknown_and_resolving_makes_repeats_only(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    interest = an_interest(topic := unique("topic"))
    async with known(make(proxied_url, publish_timeout=2), interest) as transport:
        # All of them: a later one for several would tell of the lost one too.
        proxy.rule(toward="client", when=a_confirm, do=Swallow(), times=100)
        messages = counted(topic, count=5)
        with pytest.raises(PublishUnknownError) as lost:
            await transport.publish(messages)
        assert proxy.hits
        assert list(lost.value.results) == [Unknown()] * 5
        proxy.heal()
        await lost.value.resolve()
        async with joined(transport, interest) as member:
            got = await member.receive(10)
        assert set(ids(got)) == set(ids(messages))
        assert firsts(of_key(got, "k")) == list(range(5))


def a_confirm(frame: bytes) -> bool:
    """Basic.Ack: class 60, method 80."""
    return frame[:1] == b"\x01" and frame[7:11] == b"\x00\x3c\x00\x50"


async def test_trouble_is_told_within_5_seconds_of_a_cut_and_gone_10_after_it_healed(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    async with make(proxied_url) as transport:
        assert transport.trouble is None
        proxy.refusing = True
        proxy.cut_all()
        await until(lambda: transport.trouble is not None, within=5)
        assert "guest" not in str(transport.trouble)
        proxy.heal()
        await until_well(transport, within=16)


@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_leaving_is_bounded_though_the_broker_never_answers(
    make: Make, proxy: FaultProxy, proxied_url: str, state: str
) -> None:
    interest = an_interest(topic := unique("topic"))
    before = tasks()
    transport = make(proxied_url, publish_timeout=1)
    async with known(transport, interest):
        async with asyncio.timeout(10), joined(transport, interest) as member:
            if state == "busy":
                await transport.publish(counted(topic, count=20))
                member.ack((await member.receive(20))[:10])
            proxy.rule(toward="server", when=every(), do=Blackhole(), times=100)
            proxy.rule(toward="client", when=every(), do=Blackhole(), times=100)
        await leave(transport)
    proxy.heal()
    await until(lambda: {name for name in tasks() if "proxy" not in name} <= before | proxied())


def proxied() -> set[str]:
    return {name for name in tasks() if name.startswith("proxy")}


async def leave(transport: RabbitTransport) -> None:
    async with asyncio.timeout(15):
        await transport.__aexit__(None, None, None)


async def test_flapping_for_seconds_loses_nothing(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    interest = an_interest(topic := unique("topic"), max_in_flight=20)
    messages = interleaved(topic, keys=5, count=60)
    handled: dict[str, list[int]] = {}
    everything = asyncio.Event()

    async def work(member: Member) -> None:
        seen: set[str] = set()
        async for batch in member.batches:
            for each in batch:
                handled.setdefault(str(each.message.key), []).append(int(each.message.payload))
                seen.add(each.message.id)
            member.ack(batch)
            if len(seen) == len(messages):
                everything.set()

    async def flap() -> None:
        for _ in range(6):
            count = len(proxy.hits) + sum(map(len, handled.values()))
            await until(lambda before=count: sum(map(len, handled.values())) > before)  # type: ignore[misc]  # bound now
            proxy.cut_all()

    async with known(make(proxied_url, publish_timeout=3), interest) as transport:
        async with (
            asyncio.TaskGroup() as running,
            asyncio.timeout(60),
            joined(transport, interest) as member,
        ):
            running.create_task(work(member), name="member:test")
            flapping = running.create_task(flap(), name="flapping")
            for start in range(0, len(messages), 10):
                await published_at_last(transport, messages[start : start + 10])
            flapping.cancel()
            await everything.wait()
        for numbers in handled.values():
            assert firsts(numbers) == list(range(60))


async def test_who_is_not_let_in_is_told_so(make: Make, rabbit_url: str) -> None:
    for url in (
        rabbit_url.replace("://eventbus:", "://nobody:"),
        f"{rabbit_url}-missing",
    ):
        with pytest.raises(TransportError) as refused:
            await make(url).__aenter__()
        assert refused.value.code == "EB2201"
        assert "eventbus:eventbus" not in str(refused.value)


async def test_a_broker_that_is_not_there_is_told_so(make: Make) -> None:
    before = tasks()
    with pytest.raises(TransportError) as missing:
        await make("amqp://127.0.0.1:1/").__aenter__()
    assert missing.value.code == "EB2001"
    assert "refused" in missing.value.why.lower()
    await until(lambda: tasks() <= before)


async def test_a_member_told_of_a_loss_may_fail(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    interest = an_interest(topic := unique("topic"))

    async def fail(member: Member, lost: Sequence[Delivery]) -> None:
        raise RuntimeError("the pipeline is broken")

    async with known(make(proxied_url), interest) as transport:
        await transport.publish(counted(topic, count=3))
        async with joined(transport, interest, fail) as member:
            await member.receive(3)
            proxy.cut_all()
            assert of_key(await member.receive(3), "k") == [0, 1, 2]
