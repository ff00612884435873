"""Publish: returns when stored, in order, and says what became of each message."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from eventbus.errors import Confirmed, NotSent, PublishError, Rejected, TransportError
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    Connect,
    a_message,
    an_interest,
    counted,
    entered,
    firsts,
    ids,
    interleaved,
    joined,
    needs,
    of_key,
    tasks,
    unique,
)
from eventbus.transport import Interest, Transport


class PublishingCases:
    """Of `TransportSuite`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    async def test_every_part_of_a_message_crosses_unchanged(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        plain = a_message(topic)
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            sent = [
                plain,
                replace(plain, id="foreign/7", payload=b""),
                replace(plain, id="large", payload=b"\0\xff" * (1 << 19)),
                replace(plain, id="keyless", key=None),
                replace(plain, id="tenant", key="t1/Ä 9", type="suite.other", source="/elsewhere"),
                replace(plain, id="headers", headers={"traceparent": "00-1", "subject": "Äther"}),
            ]
            await transport.publish(sent)
            got = {each.message.id: each for each in await member.receive(len(sent))}
            for message in sent:
                assert got[message.id].malformed is None
                assert got[message.id].message == message

    async def test_a_call_keeps_the_order_given(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            await transport.publish(counted(topic, count=300))
            assert of_key(await member.receive(300), "k") == list(range(300))

    async def test_concurrent_calls_keep_the_order_of_each_key(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        windows = {"one": 1, "three": 3, "seven": 7, "twenty": 20}
        async with entered(connect, interest) as transport, joined(transport, interest) as member:

            async def call_by_call(key: str, window: int) -> None:
                for first in range(0, 60, window):
                    await transport.publish(
                        counted(topic, key, first=first, count=min(window, 60 - first))
                    )

            async with asyncio.TaskGroup() as calls:
                for key, window in windows.items():
                    calls.create_task(call_by_call(key, window), name=f"publisher:{key}")
            got = await member.receive(240, ack=True)
            for key in windows:
                assert of_key(got, key) == list(range(60))

    async def test_what_is_too_large_is_rejected_and_the_rest_is_told_apart(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            messages = counted(topic, count=5)
            messages[2] = _too_large(messages[2], transport)
            with pytest.raises(PublishError) as refused:
                await transport.publish(messages)
            results = refused.value.results
            assert len(results) == len(messages)
            assert isinstance(results[2], Rejected)
            assert results[2].reason
            assert all(isinstance(results[place], Confirmed | NotSent) for place in (0, 1, 3, 4))
            await _only_confirmed_ones_arrive(transport, interest, messages, refused.value)

    @pytest.mark.parametrize("place", range(9))
    async def test_nothing_of_a_key_is_stored_behind_a_refusal(
        self, connect: Connect, place: int
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport:
            needs(transport, "stops_at_refusal")
            messages = interleaved(topic, keys=3, count=3)
            messages[place] = _too_large(messages[place], transport)
            with pytest.raises(PublishError) as refused:
                await transport.publish(messages)
            results = refused.value.results
            assert isinstance(results[place], Rejected)
            behind = [
                result
                for message, result in zip(messages[place + 1 :], results[place + 1 :], strict=True)
                if message.key == messages[place].key
            ]
            assert all(isinstance(result, NotSent) for result in behind)
            await _only_confirmed_ones_arrive(transport, interest, messages, refused.value)

    async def test_publishing_again_makes_repeats_and_no_disorder(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            messages = counted(topic, count=10)
            await transport.publish(messages[:6])
            await transport.publish(messages)  # as after an unknown outcome
            got = await member.receive(16)
            assert firsts(of_key(got, "k")) == list(range(10))
            assert set(ids(got)) == set(ids(messages))

    async def test_what_publish_returned_for_is_stored(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        message = a_message(topic)
        async with entered(connect, interest) as publisher:
            await publisher.publish([message])
        async with entered(connect, interest) as other, joined(other, interest) as member:
            assert ids(await member.receive(1)) == [message.id]

    async def test_a_cancelled_publish_stores_a_prefix_and_leaves_nothing_running(
        self, connect: Connect
    ) -> None:
        interest = an_interest(topic := unique("topic"))
        messages, last = counted(topic, count=500), a_message(topic, number=500)
        async with entered(connect, interest) as transport, joined(transport, interest) as member:
            before = tasks()
            call = asyncio.create_task(transport.publish(messages), name="publisher:cancelled")
            asyncio.get_running_loop().call_soon(call.cancel)  # after its first step
            with pytest.raises(asyncio.CancelledError):
                await call
            assert tasks() <= before
            await transport.publish([last])
            got = firsts(of_key(await member.receive_until([last]), "k"))
            assert got == [*range(len(got) - 1), 500]

    async def test_publishing_nothing_returns(self, connect: Connect) -> None:
        async with entered(connect) as transport:
            await transport.publish([])

    async def test_outside_of_its_life_a_transport_refuses(self, connect: Connect) -> None:
        topic = unique("topic")
        transport = connect()
        with pytest.raises(TransportError):
            await transport.publish([a_message(topic)])
        async with transport:
            assert transport.trouble is None
        with pytest.raises(TransportError):
            await transport.publish([a_message(topic)])


def _too_large(message: Message, transport: Transport) -> Message:
    return replace(message, payload=bytes(transport.capabilities.max_body + 1))


async def _only_confirmed_ones_arrive(
    transport: Transport, interest: Interest, messages: Sequence[Message], refused: PublishError
) -> None:
    """Read by a group of the same topic, up to a last message for each key."""
    topic = interest.topics[0]
    confirmed = [
        message
        for message, result in zip(messages, refused.results, strict=True)
        if isinstance(result, Confirmed)
    ]
    last = [a_message(topic, key, 1000) for key in dict.fromkeys(each.key for each in messages)]
    await transport.publish(last)
    async with joined(transport, interest) as member:
        got = ids(await member.receive_until(last))
    assert sorted(set(got) - set(ids(last))) == sorted(ids(confirmed))
