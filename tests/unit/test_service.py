"""Ending tasks, with whatever they ended with told; services that fail and start again."""

import asyncio
import logging

import pytest

from eventbus.service import STEADY_SECONDS, end, pause, supervise
from tests.faults.loop import run_seeded


async def test_the_error_of_a_task_that_ended_before_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("long ago")

    task = asyncio.create_task(fail(), name="worker:x")
    await asyncio.wait([task])
    with caplog.at_level(logging.ERROR, "eventbus.service"):
        assert await end([task])
    assert "task worker:x failed" in caplog.text
    assert "long ago" in caplog.text


async def test_what_was_cancelled_or_is_done_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.create_task(asyncio.sleep(0), name="worker:done")
    await done
    waiting = asyncio.create_task(asyncio.Event().wait(), name="worker:waits")
    assert await end([done, waiting])
    assert waiting.cancelled()
    assert caplog.text == ""


class Failing:
    """A service that runs for so long each time, then fails; it notes when it began."""

    def __init__(self, *runs: float) -> None:
        self.began: list[float] = []
        self._runs = list(runs)

    async def run(self, stopping: asyncio.Event) -> None:
        self.began.append(asyncio.get_running_loop().time())
        if not self._runs:
            return
        await pause(stopping, self._runs.pop(0))
        raise ValueError("again")


def waits(*runs: float) -> list[float]:
    """Seconds between the end of each run and the beginning of the next, in virtual time."""
    service = Failing(*runs)
    run_seeded(1, lambda _: supervise({"x": service}, asyncio.Event()), at_most=600)
    times = zip(service.began, service.began[1:], runs, strict=False)
    return [round(then - began - ran, 3) for began, then, ran in times]


def test_a_service_that_fails_at_once_waits_longer_each_time() -> None:
    assert waits(*[0.0] * 7) == [1, 2, 4, 8, 16, 30, 30]


def test_a_service_that_had_run_for_long_starts_again_soon() -> None:
    assert waits(0.0, 0.0, 0.0, STEADY_SECONDS + 1, 0.0) == [1, 2, 4, 1, 2]
