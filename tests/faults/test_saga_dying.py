"""A worker of sagas killed anywhere (row 3), or frozen past its leases (row 8): others end them.

Each effect was there once, and calls were made under one key (row 60). `EVENTBUS_FAULTS=full` takes
every point, on files and on PostgreSQL; otherwise one of `STRIDES`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.postgres import database
from tests.faults.saga_dying import NAMED

ALL = os.environ.get("EVENTBUS_FAULTS") == "full"
STRIDES = {"sqlite": 1 if ALL else 23, "postgres": 1 if ALL else 89}
LEAST = {"consumer": 90, "timers": 20, "calls": 40}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="capability: processes are forked"),
    pytest.mark.timeout(3600 if ALL else 300),
]


def swept(where: str, directory: Path, role: str, first: int, step: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.faults.saga_dying", where, str(directory), role]
    ran = subprocess.run(
        [*command, str(first), str(step)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """What is swept."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    with database() as url:
        yield url


@pytest.mark.parametrize("role", ["consumer", "timers", "calls"])
def test_a_worker_killed_at_any_call_leaves_sagas_that_another_one_ends(
    tmp_path: Path, where: str, role: str
) -> None:
    stride = STRIDES["sqlite" if where == "sqlite" else "postgres"]
    points = swept(where, tmp_path, role, 0 if ALL else 5, stride)
    assert [point for point in points if point["wrong"] or point["failed"]] == []
    assert sum(not point["killed"] for point in points) == 1  # it went on to the end
    assert len(points) >= LEAST[role] // stride


@pytest.mark.skipif(not ALL, reason="capability: the long tier")
def test_a_worker_killed_at_any_passing_of_a_named_point_leaves_sagas_that_another_one_ends(
    tmp_path: Path, where: str
) -> None:
    points = swept(where, tmp_path, "named", 0, 1)
    assert [point for point in points if point["wrong"] or point["failed"]] == []
    assert {name for point in points for name in point["names"]} >= set(NAMED)


@pytest.mark.skipif(not ALL, reason="capability: the long tier")
def test_a_worker_that_stood_still_past_its_leases_changes_nothing_any_more(tmp_path: Path) -> None:
    with database() as url:
        points = swept(url, tmp_path, "frozen", 0, 1)
    assert [point for point in points if point["wrong"] or not point["stopped"]] == []
    assert all(name in point["names"] for name, point in zip(NAMED, points, strict=True))
