"""A worker of sagas killed anywhere: another one ends them, and each effect was there once (K4).

`EVENTBUS_FAULTS=full` takes every point on SQLite; otherwise every `STRIDE`-th.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database

ALL = os.environ.get("EVENTBUS_FAULTS") == "full"
STRIDE = 1 if ALL else 17

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="capability: processes are forked"),
    pytest.mark.timeout(3600 if ALL else 300),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


def swept(*arguments: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.faults.saga_dying", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("role", ["consumer", "timers", "calls"])
def test_a_worker_killed_at_any_call_leaves_sagas_that_another_one_ends(
    tmp_path: Path, role: str
) -> None:
    points = swept(str(tmp_path), role, "3", str(STRIDE))
    assert [point for point in points if point["wrong"] or point["failed"]] == []
    assert sum(not point["killed"] for point in points) == 1  # it went on to the end
    assert len(points) >= 60 // STRIDE


@pytest.mark.parametrize(("role", "point"), [("consumer", 61), ("timers", 9), ("calls", 13)])
def test_on_postgresql_another_worker_takes_over_from_a_killed_one(
    tmp_path: Path, server: str, role: str, point: int
) -> None:
    url = f"{server}?schema={unique('dying')}"
    (told,) = swept(str(tmp_path), role, str(point), "1", url)
    assert told["killed"]
    assert told["wrong"] == []
