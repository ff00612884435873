"""What is said of workers that are told to end: only those that had entered must drain."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.bank.worker import entered
from tests.faults.bank.workers import Worker, Workers

FOR_EVER = [sys.executable, "-c", "import threading; threading.Event().wait()"]


async def _at_work(workers: Workers) -> Worker:
    workers.start()
    async with asyncio.timeout(60):
        while not workers.alive:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    return workers.alive[0]


@pytest.mark.parametrize(("has_entered", "codes"), [(False, [0]), (True, [-signal.SIGTERM])])
async def test_only_one_that_had_entered_may_not_end_by_the_signal(
    has_entered: bool, codes: list[int], tmp_path: Path
) -> None:
    workers = Workers(FOR_EVER, tmp_path, 1)
    worker = await _at_work(workers)
    if has_entered:
        entered(tmp_path, worker.name).touch()
    assert await workers.stop() == codes
    assert workers.surprises == []


async def test_one_that_is_started_while_the_others_are_told_is_told_too(tmp_path: Path) -> None:
    workers = Workers(FOR_EVER, tmp_path, 1)
    workers.start()
    while not workers.lives:  # noqa: ASYNC110 - it is being started
        await asyncio.sleep(0)
    assert workers.alive == {}
    async with asyncio.timeout(30):  # else it is killed after 40 s
        assert await workers.stop() == []
    assert (workers.lives, workers.alive) == (1, {})


async def test_a_signal_to_one_that_has_just_ended_is_no_error(tmp_path: Path) -> None:
    workers = Workers(FOR_EVER, tmp_path, 1)
    worker = await _at_work(workers)
    await workers.stop()
    worker.tell(signal.SIGTERM)
