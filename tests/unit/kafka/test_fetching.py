"""How much is taken from the client at once; the client is one that notes what it is asked for."""

from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from eventbus_kafka import KafkaConfig
from eventbus_kafka.assignment import Assignment
from eventbus_kafka.commits import Commits
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import Assigned
from eventbus_kafka.fetching import RECORDS_AT_ONCE, Fetching
from eventbus_kafka.health import Health
from eventbus_kafka.intake import Intake
from eventbus_kafka.mapping import Mapper
from eventbus_kafka.watermark import Mark

PART = TopicPartition("shop", 0)


class Asked:
    """Has nothing, and notes how many records it was asked for at most."""

    def __init__(self) -> None:
        self.most: list[int | None] = []

    def paused(self) -> list[TopicPartition]:
        return []

    async def getmany(
        self, *parts: TopicPartition, timeout_ms: int, max_records: int | None
    ) -> dict[TopicPartition, list[Any]]:
        self.most.append(max_records)
        return {}


@pytest.mark.parametrize(("room", "asked"), [(1000, 50), (51, 50), (50, 50), (20, 20)])
async def test_records_are_taken_fifty_at_a_time_and_no_more_than_there_is_room_for(
    room: int, asked: int
) -> None:
    """More outlive the young generation, and collections cost a fifth of consuming (0028)."""
    config, client = KafkaConfig(servers=("broker:9092",), insecure=True), Asked()
    intake = Intake(Mapper("test", {}), max_in_flight=room, max_bytes=1 << 20)
    health = Health(config, "billing", lambda: None)
    fetching = Fetching(config, cast("Control", None), "billing", intake, health)
    part = Assigned(PART, 1, Mark(0, 0))
    consumer, commits = cast("AIOKafkaConsumer", client), cast("Commits", None)
    await fetching.poll(Assignment(consumer, [part], commits))
    assert client.most == [asked]
    assert RECORDS_AT_ONCE == 50
