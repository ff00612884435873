"""Hints: none is lost, and another process's changes are felt."""

import asyncio
from datetime import timedelta
from pathlib import Path

from eventbus.inspection import Selection
from eventbus.sqlite import SqliteStorage
from tests.unit.sqlite.helpers import message, with_table

LONG = timedelta(minutes=1)  # nobody waits that long: the test's own time-out is shorter
SHORT = timedelta(milliseconds=1)


async def add(storage: SqliteStorage) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.add([message()])


async def test_every_waiting_task_gets_the_hint() -> None:
    async with with_table(None) as storage:
        waiting = [
            asyncio.create_task(storage.wait("outbox", at_most=LONG), name=f"test:{number}")
            for number in range(3)
        ]
        await asyncio.sleep(0)
        await add(storage)
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)


async def test_a_hint_between_a_read_and_its_wait_is_not_lost() -> None:
    async with with_table(None) as storage, asyncio.timeout(30):
        await storage.wait("outbox", at_most=SHORT)
        await add(storage)
        await asyncio.create_task(storage.wait("outbox", at_most=LONG), name="test:other")
        await storage.wait("outbox", at_most=LONG)


async def test_a_rollback_and_other_work_give_no_hint() -> None:
    async with with_table(None) as storage:
        await add(storage)
        waiting = asyncio.create_task(storage.wait("parked", at_most=LONG), name="test:parked")
        await asyncio.sleep(0)
        await add(storage)
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_change_of_another_process_is_felt(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with (
        with_table(path) as storage,
        SqliteStorage(str(path), inspect_only=True) as operators,
        asyncio.timeout(30),
    ):
        await storage.wait("outbox", at_most=timedelta(seconds=0.6))  # it has looked once
        waiting = asyncio.create_task(storage.wait("outbox", at_most=LONG), name="test:outbox")
        await asyncio.sleep(0)
        await operators.inspection.change("pause", Selection(place="outbox"), actor="test")
        await waiting
