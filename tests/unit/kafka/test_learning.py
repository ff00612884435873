"""One question of a topic at a time; the cluster is one that answers, or does not."""

import asyncio

import pytest

from eventbus_kafka.learning import Learning
from eventbus_kafka.partitions import Partitions


async def test_a_question_that_hangs_ends_though_there_is_always_somebody_who_waits() -> None:
    """Else nobody would ever publish there again: whoever came would join it."""
    asked: list[str] = []
    partitions = Partitions()

    async def ensure(topic: str) -> bool:
        asked.append(topic)
        if len(asked) == 1:
            await asyncio.Event().wait()
        return True

    async def count(topic: str) -> int:
        return 3

    learning = Learning(partitions, ensure, count, seconds=0.05, where="kafka://broker")
    first = asyncio.create_task(learning.learn("shop"))
    joins = asyncio.create_task(learning.learn("shop"))
    async with asyncio.timeout(10):
        for each in (first, joins):
            with pytest.raises(TimeoutError):
                await each
        await learning.learn("shop")
    assert asked == ["shop", "shop"]
    assert "shop" in partitions


async def test_nobody_asks_once_everybody_who_waited_has_gone() -> None:
    ended = asyncio.Event()

    async def ensure(topic: str) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return True

    async def count(topic: str) -> int:
        raise AssertionError(topic)

    learning = Learning(Partitions(), ensure, count, seconds=60, where="kafka://broker")
    waiting = [asyncio.create_task(learning.learn("shop")) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert not ended.is_set()
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    assert ended.is_set()
