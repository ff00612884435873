"""The one task that commits, without a broker."""

import asyncio
import gc
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from eventbus_kafka.commits import Commits
from eventbus_kafka.delivery import Assigned
from eventbus_kafka.watermark import Mark


class Dark:
    """A consumer without a broker: a commit that is cancelled fails in its own way."""

    async def position(self, part: TopicPartition) -> int:
        return 0

    async def commit(self, offsets: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KafkaConnectionError("no broker") from None


async def test_a_commit_that_was_given_up_leaves_no_error_that_nobody_asked_for() -> None:
    left: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(str(context)))
    assigned = Assigned(TopicPartition("orders", 0), 1, Mark(0, 0))
    commits = Commits(
        cast("AIOKafkaConsumer", Dark()),
        [assigned],
        ahead=10,
        every_seconds=1.0,
        where="kafka://broker",
        refused=lambda error: None,
    )
    with pytest.raises(TimeoutError):
        await commits._send(0.01)
    for _ in range(3):
        await asyncio.sleep(0)
    commits._current = None
    gc.collect()
    assert left == []
