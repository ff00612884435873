"""The order book on brokers: every service a process, one of them killed, the same totals."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventbus.testing.services.kafka import delete_topics

ROOT = Path(__file__).parents[2]
ENOUGH_SECONDS = 240.0
TOPICS = ("retail", "stock", "billing", "shipping", "fulfil-order.replies")


@pytest.fixture
def own_kafka(kafka_url: str) -> Iterator[str]:
    """No topic of an order book is there: neither its name nor its groups have a prefix."""
    for topic in TOPICS:
        delete_topics(kafka_url, topic)
    mark = "&" if "?" in kafka_url else "?"
    yield f"{kafka_url}{mark}provision=true&partitions=2&replication=1"
    for topic in TOPICS:
        delete_topics(kafka_url, topic)


@asynccontextmanager
async def order_book(
    *arguments: str, cwd: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """All of its processes, and what they print; they drain in the end."""
    kept = {name: value for name, value in os.environ.items() if name != "EVENTBUS_EXAMPLE_DATA"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.order_book", *arguments),
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("broker", "victim"), [("own_kafka", "sagas"), ("rabbit_url", "orders")])
async def test_one_process_is_killed_and_the_totals_are_exact(
    request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path, broker: str, victim: str
) -> None:
    transport: str = request.getfixturevalue(broker)
    given = ("--transport", transport, "--storage", postgres_url, "--progress", "0")
    pids: dict[str, int] = {}
    lines: list[str] = []
    killed = False
    async with (
        asyncio.timeout(ENOUGH_SECONDS),
        order_book("--invoices", "60", *given, cwd=tmp_path) as (process, output),
    ):
        async for raw in output:
            lines.append(raw.decode().rstrip())
            if found := re.fullmatch(r"(.+) is process (\d+)", lines[-1]):
                pids[found[1]] = int(found[2])
            shipped = re.search(r"(\d+) under way, (\d+) shipped", lines[-1])
            if shipped is not None and not killed and int(shipped[2]) > 0:
                assert int(shipped[1]) > 0, "nothing was under way any more"
                os.kill(pids[victim], signal.SIGKILL)
                killed = True
        code = await process.wait()
    said = "\n".join(lines)
    assert killed, said
    assert f"{victim} ended with -9: it is started again" in said
    assert "equals the totals added up while it was made up: yes" in said
    assert "NO" not in re.findall(r": (yes|NO)$", said, re.M), said
    assert code == 0, said


async def test_a_service_that_cannot_start_is_named(postgres_url: str, tmp_path: Path) -> None:
    nowhere = "amqp://nobody:wrong@127.0.0.1:1/"
    given = ("--transport", nowhere, "--storage", postgres_url)
    async with (
        asyncio.timeout(ENOUGH_SECONDS),
        order_book("--invoices", "5", *given, cwd=tmp_path) as (process, output),
    ):
        said = (await output.read()).decode()
        code = await process.wait()
    assert code == 1
    assert "ended with" in said
    assert "EB2" in said
