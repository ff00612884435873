"""K3 while others go on: a worker frozen past its lease (row 8), a database restarted (row 17)."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.sourcing import following, holdings
from eventbus.testing import assert_rebuild_equals_live
from eventbus.testing.services import ServiceMissingError, private_postgres
from tests.conformance.postgres import database
from tests.faults import projecting
from tests.faults.projected_sales import Code
from tests.faults.projected_till import ENOUGH, Till, selling
from tests.faults.projecting import bus_on

TREE = Path(__file__).parents[2]


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the worker: leases run out soon, every order is taken."""
    monkeypatch.setattr(holdings, "TTL", timedelta(seconds=2))
    monkeypatch.setattr(holdings, "RENEW_SECONDS", 0.6)
    monkeypatch.setattr(holdings, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(following, "TROUBLED_SECONDS", 0.1)
    monkeypatch.setattr(Code, "mended", True)


@contextlib.asynccontextmanager
async def worker(url: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "tests.faults.projecting_worker", url]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(ENOUGH.total_seconds()):
            assert (await process.stdout.readline()).strip() == b"follows"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_worker_that_wakes_past_its_lease_writes_nothing_more(url: str) -> None:
    client = bus_on(url)
    await client.upgrade()
    async with client.client(), selling(client) as till, worker(url) as frozen:
        await till.reaches(20)
        await client.projections.wait("sales", till.position, at_most=ENOUGH)
        first = await epoch(client)
        frozen.send_signal(signal.SIGSTOP)
        async with bus_on(url) as other:
            await till.reaches(20)
            await other.projections.wait("sales", till.position, at_most=ENOUGH)
            assert await epoch(client) > first
            frozen.send_signal(signal.SIGCONT)
            await till.reaches(50)
            await other.projections.wait("sales", till.position, at_most=ENOUGH)
            till.closed.set()
            assert frozen.returncode is None
            frozen.terminate()
            async with asyncio.timeout(ENOUGH.total_seconds()):
                assert await frozen.wait() == 0
            await right(other, till)


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_database_that_restarts_loses_and_doubles_no_row(how: str) -> None:
    try:
        async with private_postgres() as own:
            bus = bus_on(own.url)
            await bus.upgrade()
            async with bus:
                async with selling(bus) as till:
                    for _ in range(2):
                        await till.reaches(30)
                        await own.restart("immediate" if how == "immediate" else "fast")
                    await till.reaches(30)
                    assert till.refused
                await right(bus, till)
    except ServiceMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"capability native server: {' '.join(str(error).split())}")


async def right(bus: EventBus, till: Till) -> None:
    """Each order is in the rows once, and a replay gives the same."""
    await bus.projections.wait("sales", till.position, at_most=ENOUGH)
    await bus.until_idle(at_most=ENOUGH)
    assert (await projecting.table(bus))["UK"] == (till.sold, till.sold)
    assert await assert_rebuild_equals_live(bus, "sales") == 1


async def epoch(bus: EventBus) -> int:
    assert bus.storage is not None
    async with bus.storage.transaction() as tx:
        rows = await tx.sql.fetch(
            "SELECT epoch FROM eventbus.leases WHERE name = 'projection/sales@1/0'"
        )
    return int(rows[0]["epoch"])
