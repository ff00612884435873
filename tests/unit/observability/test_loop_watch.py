"""A loop that stands still is told with its stack, once, and when it goes on."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

import pytest

from eventbus.observability import LoopWatch
from eventbus.observability.loop_watch import Over, Standstill, Still


class Ear(logging.Handler):
    """Tells threads and the loop of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.still = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.over = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if record.getMessage().startswith("the event loop goes on"):
            self.loop.call_soon_threadsafe(self.over.set)
        else:
            self.still.set()


@pytest.fixture
async def ear() -> AsyncIterator[Ear]:
    heard, log = Ear(), logging.getLogger("eventbus.observability")
    log.addHandler(heard)
    yield heard
    log.removeHandler(heard)


def blocks(until: threading.Event) -> None:
    assert until.wait(30)


async def test_who_blocks_the_loop_is_named_while_it_does(ear: Ear) -> None:
    async with LoopWatch(limit_seconds=0.05, look_seconds=0.01):
        blocks(ear.still)
        await ear.over.wait()
    still, over = ear.records
    assert "the event loop has stood still for 0." in still.getMessage()
    assert "test_loop_watch.py:" in still.getMessage()  # and not threading.py, where it waits
    assert " in blocks;" in still.getMessage()
    assert still.stack_info is not None
    assert "in blocks" in still.stack_info
    assert "in test_who_blocks_the_loop_is_named_while_it_does" in still.stack_info
    assert still.levelno == over.levelno == logging.WARNING


async def test_left_it_watches_no_more(ear: Ear) -> None:
    async with LoopWatch() as watch:
        thread = watch._thread
        assert thread.is_alive()
    assert not thread.is_alive()


def seen(*looks: tuple[float, float, float]) -> list[Still | Over | None]:
    standstill = Standstill(0.7, 0.2)
    return [standstill.seen(age, gap=gap, cpu=cpu) for age, gap, cpu in looks]


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([(0.1, 0.2, 0.0), (0.7, 0.2, 0.0)], [None, None]),  # it is busy, and has turns
        (  # it stands: told once, and once when it is over, with how long it took
            [(0.8, 0.2, 0.0), (5.0, 0.2, 0.0), (0.1, 0.2, 0.0), (0.1, 0.2, 0.0)],
            [Still(0.8), None, Over(5.0), None],
        ),
        ([(9.0, 9.0, 0.0), (0.1, 0.2, 0.0)], [None, None]),  # the process was stopped as a whole
        ([(9.0, 9.0, 8.9)], [Still(9.0)]),  # native code that lets no thread in
        ([(0.7, 0.6, 0.1), (1.3, 0.6, 0.1)], [None, None]),  # others have the processor
        ([(0.7, 0.6, 0.1), (0.1, 0.2, 0.0), (0.8, 0.2, 0.0)], [None, None, Still(0.8)]),
    ],
)
def test_what_is_told_of_a_loop(
    looks: list[tuple[float, float, float]], told: list[Still | Over | None]
) -> None:
    assert seen(*looks) == told
