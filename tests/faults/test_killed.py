"""Processes on one PostgreSQL, killed or frozen past their leases: rows 1, 2, 8 and 18.

`EVENTBUS_FAULTS=full` kills at every round trip with the server, before and after it, and at every
crash point of the contracts; otherwise some round trips are taken, both before and after.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventbus.testing.services import running
from eventbus.testing.services.postgres import create_database, drop_database
from tests.faults.killed.points import FROZEN, NAMED

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
STRIDE = 1 if FULL else 79
FEWEST = 500  # round trips, before and after
WORKERS = 2

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="capability: processes are forked"),
    pytest.mark.timeout(3_600 if FULL else 300),
]
Sweep = Sequence[dict[str, Any]]


@pytest.fixture
def urls() -> Iterator[list[str]]:
    """A database for each sweep."""
    with running("postgres") as server:
        databases = [create_database(server.url) for _ in range(WORKERS)]
        yield databases
        for url in databases:
            drop_database(url)


def started(url: str, directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.faults.killed", url, str(directory), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcomes(processes: "Sequence[subprocess.Popen[str]]") -> Sweep:
    outputs = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), "\n".join(errors for _, errors in outputs)
    return [json.loads(line) for output, _ in outputs for line in output.splitlines()]


def wrong(sweep: Sweep) -> Sweep:
    return [outcome for outcome in sweep if outcome["violations"] or not outcome["finished"]]


def test_killed_at_a_round_trip_nothing_is_lost_doubled_or_overtaken(
    urls: list[str], tmp_path: Path
) -> None:
    sweep = outcomes(
        [
            started(url, tmp_path / str(first), "wire", str(first * STRIDE), str(WORKERS * STRIDE))
            for first, url in enumerate(urls)
        ]
    )
    hits = [outcome["hits"][0] for outcome in sweep if outcome["hit"]]
    print(f"{len(hits)} points: {sorted(set(hits))}")
    assert wrong(sweep) == []
    assert len(hits) == len(sweep) - WORKERS  # each went on until the scenario was over
    assert len(hits) >= FEWEST / STRIDE
    if FULL:  # row 19: COMMIT was not sent whole; it was done, and nobody heard of it
        assert {"server: COMMIT", "client: COMMIT"} <= set(hits)


def test_a_zombie_that_goes_on_after_its_leases_ran_out_changes_nothing(
    urls: list[str], tmp_path: Path
) -> None:
    sweep = outcomes([started(urls[0], tmp_path, "frozen")])
    assert wrong(sweep) == []
    assert [outcome["point"] for outcome in sweep if outcome["hit"]] == list(FROZEN)


@pytest.mark.skipif(not FULL, reason="capability: the long tier")
def test_a_second_crash_at_each_named_point_is_survived_too(
    urls: list[str], tmp_path: Path
) -> None:
    sweep = outcomes([started(urls[0], tmp_path, "named")])
    assert wrong(sweep) == []
    assert [outcome["point"] for outcome in sweep if outcome["hit"]] == list(NAMED)
