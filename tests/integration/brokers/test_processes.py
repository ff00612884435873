"""Workers that are told to end, that do not want to, that die: rows 6, 7, 38 and 39."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.brokers.conftest import Broker, long
from tests.integration.brokers.worker import DEADLY, a_bus, placed

LIVES = 8


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


async def published(broker: Broker, database: Path, *orders: str) -> None:
    """An event of each order, numbered; the group is known to the broker from then on."""
    bus, event = a_bus(broker.alone(), str(database), broker.topic, broker.group), None
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE effects (number INTEGER)")
        event = placed(broker.topic)
        for number, order in enumerate(orders):
            await bus.publish(event(order=order, number=number))


def worker(broker: Broker, database: Path, work: str, grace: float = 20) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.integration.brokers.worker", broker.alone()),
            *(str(database), broker.topic, broker.group, work, str(grace)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    return (line.strip() for line in process.stdout)


def until(process: "subprocess.Popen[str]", wanted: str) -> list[str]:
    seen = []
    for line in lines(process):
        seen.append(line)
        if line == wanted:
            return seen
    raise AssertionError(f"{wanted!r} never came: {seen}")


def effects(database: Path) -> list[int]:
    connection = sqlite3.connect(database)
    try:
        return [row[0] for row in connection.execute("SELECT number FROM effects ORDER BY number")]
    finally:
        connection.close()


@long
def test_a_signal_lets_what_runs_end_and_the_next_process_does_the_rest_once(
    broker: Broker, database: Path
) -> None:
    """Row 6."""
    asyncio.run(published(broker, database, *"AAAA"))
    with worker(broker, database, "for_a_second") as process:
        until(process, "began 0")
        process.send_signal(signal.SIGTERM)
        assert list(lines(process)) == ["ended 0", "drained"]
    assert process.returncode == 0
    with worker(broker, database, "at_once") as again:
        seen = until(again, "ended 3")
        again.send_signal(signal.SIGTERM)
        list(lines(again))
    assert [line for line in seen if line.startswith("began")] == ["began 1", "began 2", "began 3"]
    assert effects(database) == [0, 1, 2, 3]


@pytest.mark.parametrize("work", [pytest.param("for_ever", marks=long), "in_a_thread"])
def test_a_handler_that_ignores_its_end_does_not_keep_the_worker(
    broker: Broker, database: Path, tmp_path: Path, work: str
) -> None:
    """Row 38."""
    asyncio.run(published(broker, database, "A"))
    given = (broker.alone(), str(database), broker.topic, broker.group, work)
    app = "from tests.integration.brokers.worker import a_bus\nbus = a_bus(*{})\n"
    (tmp_path / "stubborn.py").write_text(app.format(given))
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-m", "eventbus", "run", "stubborn:bus", "--grace", "0.5"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(process, "began 0")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=110)
    assert process.returncode == 4, told
    assert "ended without waiting for" in told
    assert effects(database) == []


@long
@pytest.mark.parametrize("phase", ["imported", "entering"])
def test_a_signal_while_it_starts_ends_a_process(
    broker: Broker, database: Path, phase: str
) -> None:
    """Row 7."""
    with worker(broker, database, "at_once") as process:
        until(process, phase)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=110)


@long
def test_a_second_signal_ends_a_process_at_once(broker: Broker, database: Path) -> None:
    """Row 7."""
    asyncio.run(published(broker, database, "A"))
    with worker(broker, database, "for_ever", grace=3600) as process:
        until(process, "began 0")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=110)
    assert process.returncode in {130, 143}


@long
def test_a_message_that_kills_its_process_is_buried_and_its_neighbours_are_done_once(
    broker: Broker, database: Path
) -> None:
    """Row 39."""
    asyncio.run(published(broker, database, *"ABCDE"))
    deaths = 0
    for _ in range(LIVES):
        with worker(broker, database, "deadly") as process:
            list(lines(process))
        if process.returncode == 0:
            break
        assert process.returncode == 9
        deaths += 1
    assert deaths == 4  # the first time nobody knew, and did not count
    assert effects(database) == [number for number in range(5) if number != DEADLY]
    assert asyncio.run(buried(broker, database)) == [deaths]


async def buried(broker: Broker, database: Path) -> list[int]:
    """The attempts of each dead letter."""
    bus = a_bus(broker.alone(), str(database), broker.topic, broker.group)
    async with bus.client():
        return [int(letter["attempts"]) for letter in await bus.dead_letters.list(limit=10)]
