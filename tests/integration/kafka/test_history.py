"""A bounded replay, outside any group."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from eventbus.errors import ConfigurationError, TransportError
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    a_message,
    an_interest,
    ids,
    interleaved,
    joined,
)
from eventbus_kafka import KafkaTransport
from eventbus_kafka.delivery import KafkaDelivery
from tests.integration.kafka.conftest import Open

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def at(topic: str, seconds: int, key: str) -> Message:
    """Of that second after noon."""
    time = (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", ".000000Z")
    return Message(
        id=f"{key}-{seconds}",
        type="suite.timed",
        source="/suite",
        topic=topic,
        key=key,
        payload=b"%d" % seconds,
        headers={"time": time},
    )


async def replayed(
    transport: KafkaTransport, topic: str, *, start: object = "first", stop: object = "now"
) -> list[KafkaDelivery]:
    return [
        delivery
        async for batch in transport.replay([topic], start=start, stop=stop)  # type: ignore[arg-type]  # by the cases
        for delivery in batch
    ]


async def test_everything_up_to_now_is_replayed_in_the_order_of_each_key(
    connect: Open, topic: str
) -> None:
    async with connect() as transport:
        await transport.publish(messages := interleaved(topic, keys=5, count=300))
        found = await replayed(transport, topic)
        assert sorted(ids(found)) == sorted(ids(messages))
        for key in range(5):
            mine = [int(each.message.payload) for each in found if each.message.key == f"k{key}"]
            assert mine == list(range(300))
        assert all(each.redelivered and not each.lost for each in found)


async def test_a_replay_has_the_bounds_of_its_beginning(connect: Open, topic: str) -> None:
    async with connect(partitions=1) as transport:
        await transport.publish(interleaved(topic, keys=1, count=900))
        batches = transport.replay([topic], start="first", stop="now")
        count = len(await anext(batches))
        await transport.publish([late := a_message(topic, "k0", 900)])
        rest = [delivery async for batch in batches for delivery in batch]
        assert count + len(rest) == 900
        assert late.id not in ids(rest)


@pytest.mark.parametrize(
    ("start", "stop", "seconds"),
    [
        ("first", "now", range(20)),
        (5, "now", range(5, 20)),
        ("first", 5, range(5)),
        (5, 15, range(5, 15)),
        (15, 5, range(0)),
        (100, "now", range(0)),
        (-100, 100, range(20)),
    ],
)
async def test_a_replay_goes_from_one_time_to_another(
    connect: Open, topic: str, start: int | str, stop: int | str, seconds: range
) -> None:
    async with connect() as transport:
        await transport.publish(
            [at(topic, second, key) for second in range(20) for key in ("a", "b", "c")]
        )
        bounds = [
            NOON + timedelta(seconds=edge) if isinstance(edge, int) else edge
            for edge in (start, stop)
        ]
        found = await replayed(transport, topic, start=bounds[0], stop=bounds[1])
        assert sorted(ids(found)) == sorted(
            f"{key}-{second}" for second in seconds for key in ("a", "b", "c")
        )


async def test_a_replay_by_offsets_names_partitions_as_deliveries_do(
    connect: Open, topic: str
) -> None:
    async with connect(partitions=1) as transport:
        await transport.publish(interleaved(topic, keys=1, count=20))
        found = [
            delivery
            async for batch in transport.replay_offsets({f"{topic}/0": range(5, 8)})
            for delivery in batch
        ]
        assert [(each.partition, each.offset) for each in found] == [
            (f"{topic}/0", "5"),
            (f"{topic}/0", "6"),
            (f"{topic}/0", "7"),
        ]


async def test_no_group_notices_a_replay(connect: Open, topic: str, group: str) -> None:
    interest = an_interest(topic, group=group)
    async with connect() as transport:
        await transport.publish(interleaved(topic, keys=3, count=5))
        async with joined(transport, interest) as member:
            got = await member.receive(15)
            assert len(await replayed(transport, topic)) == 15
            assert member.told == []
            member.ack(got)
            await member.subscription.flush()
            assert await member.subscription.backlog() == 0


async def test_a_replay_that_is_left_early_leaves_nothing_behind(connect: Open, topic: str) -> None:
    async with connect() as transport:
        await transport.publish(interleaved(topic, keys=3, count=500))
        batches = transport.replay([topic], start="first", stop="now")
        assert await anext(batches)
        await batches.aclose()
        fetching = [task for task in asyncio.all_tasks() if "_fetch_requests" in str(task)]
        assert len(fetching) == 1  # the reader of the control client


async def test_there_is_no_history_of_what_does_not_exist(connect: Open, topic: str) -> None:
    async with connect() as transport:
        with pytest.raises(TransportError) as missing:
            await replayed(transport, topic)
        assert missing.value.code == "EB2301"


async def test_a_time_without_a_zone_is_refused(connect: Open, topic: str) -> None:
    async with connect() as transport:
        await transport.publish([a_message(topic)])
        with pytest.raises(ConfigurationError) as refused:
            await replayed(transport, topic, start=datetime(2026, 1, 2))
        assert refused.value.code == "EB1006"
