"""Ending tasks: whatever they ended with is told, and nothing is left for the collector to find."""

import asyncio
import logging

import pytest

from eventbus.service import end


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
