"""How much is taken from the client at once; the client is one that notes what it is asked for."""

from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException

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
    client = Asked()
    await _fetching(room).poll(_assignment(client, Assigned(PART, 1, Mark(0, 0))))
    assert client.most == [asked]
    assert RECORDS_AT_ONCE == 50


class Failing(Asked):
    """It had taken records of a partition when those of another one turned out unreadable."""

    async def getmany(self, *parts: Any, **options: Any) -> Any:
        raise CorruptRecordException("another partition")

    async def position(self, part: TopicPartition) -> int:
        return 8

    async def end_offsets(self, parts: Any) -> Any:
        return dict.fromkeys(parts, 8)


async def test_the_position_of_a_client_that_failed_is_not_taken_for_what_was_read() -> None:
    part = Assigned(PART, 1, Mark(0, 0))
    now = _assignment(Failing(), part)
    with pytest.raises(CorruptRecordException):
        await _fetching(room=50).poll(now)
    assert await now.backlog() == 8
    assert part.mark(10).offset == 0


def _fetching(room: int) -> Fetching:
    config = KafkaConfig(servers=("broker:9092",), insecure=True)
    intake = Intake(Mapper("test", {}), max_in_flight=room, max_bytes=1 << 20)
    health = Health(config, "billing", lambda: None)
    return Fetching(config, cast("Control", None), "billing", intake, health)


def _assignment(client: Asked, part: Assigned) -> Assignment:
    return Assignment(cast("AIOKafkaConsumer", client), [part], cast("Commits", None))
