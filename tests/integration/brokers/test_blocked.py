"""A handler that blocks the event loop of its worker: row 37 of the matrix."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from runpy import run_path

import asyncpg
import pytest

from eventbus import EventBus
from tests.integration.brokers.conftest import FULL, Broker
from tests.integration.brokers.worker import placed

APP = """
import os
import sys
from datetime import timedelta

from eventbus import Context, EventBus, Group, subscribe
from tests.integration.brokers.worker import SOON, Placed, placed

URL, DATABASE, TOPIC, GROUP = {given}


@subscribe(placed(TOPIC), group=Group(GROUP, lanes=1, retry=SOON, timeout=timedelta(seconds=4)))
async def handle(event: Placed, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO effects (number) VALUES ($1)", event.number)
    print("began", event.number, flush=True)
    if "BLOCKS" in os.environ:
        sys.stdin.readline()
    print("ended", event.number, flush=True)


bus = EventBus(URL, storage=DATABASE, handlers=[handle], service="shop")
"""
QUICKLY = {"kafka": "", "rabbit": "?heartbeat=1"}  # how a broker notices that nobody answers


async def published(bus: EventBus, topic: str) -> None:
    await bus.upgrade()
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE effects (number INTEGER)")
        for number in range(3):
            await bus.publish(placed(topic)(order="A", number=number))


@contextmanager
def worker(directory: Path, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-m", "eventbus", "run", "blocking:bus"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def saw(process: "subprocess.Popen[str]", wanted: str) -> None:
    assert process.stdout is not None
    assert any(wanted in line for line in process.stdout), f"{wanted!r} never came"


async def effects(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT number FROM effects ORDER BY number")
    finally:
        connection.terminate()
    return [row["number"] for row in rows]


def test_who_blocks_the_loop_is_told_with_its_stack_and_another_process_goes_on(
    broker: Broker, postgres_url: str, tmp_path: Path
) -> None:
    """The blocked one's transaction is ended by the server after 15 s: what it held is free."""
    if broker.name == "kafka" and not FULL:
        pytest.skip("capability: the long tier")
    url = f"{broker.url}{QUICKLY[broker.name]}"
    given = (url, f"{postgres_url}?idle=15", broker.topic, broker.group)
    (tmp_path / "blocking.py").write_text(APP.format(given=given), encoding="utf-8")
    asyncio.run(published(run_path(str(tmp_path / "blocking.py"))["bus"], broker.topic))
    with worker(tmp_path, BLOCKS="1") as blocked:
        assert blocked.stderr is not None
        saw(blocked, "began 0")
        told = next(line for line in blocked.stderr if "the event loop has stood still" in line)
        assert "blocking.py:" in told
        assert " in handle;" in told
        with worker(tmp_path) as other:
            saw(other, "ended 2")
            other.send_signal(signal.SIGTERM)
            other.communicate(timeout=60)
        blocked.send_signal(signal.SIGTERM)
        blocked.communicate("it goes on, and its commit comes to nothing", timeout=60)
    assert asyncio.run(effects(postgres_url)) == [0, 1, 2]
