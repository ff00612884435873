"""Real processes on one SQLite file, killed by SIGKILL at their calls: the next one finishes.

`EVENTBUS_FAULTS=full` takes every point; otherwise every `STRIDE`-th, which takes both the one
before and the one after a call.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.crash import REACHED, deadly_handler

ALL = os.environ.get("EVENTBUS_FAULTS") == "full"
STRIDE = 1 if ALL else 7
WORKERS = 2

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.timeout(1800 if ALL else 300),
]


def started(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.faults.crash", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def points_of(processes: "Sequence[subprocess.Popen[str]]") -> list[dict[str, Any]]:
    outputs = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), "\n".join(errors for _, errors in outputs)
    return [json.loads(line) for output, _ in outputs for line in output.splitlines()]


def wrong(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [point for point in points if point["violations"] or not point["finished"]]


def test_a_process_killed_at_any_call_loses_doubles_and_overtakes_nothing(tmp_path: Path) -> None:
    points = points_of(
        [
            started(str(tmp_path / str(worker)), str(worker * STRIDE), str(WORKERS * STRIDE))
            for worker in range(WORKERS)
        ]
    )
    killed = [point for point in points if point["killed"]]
    print(f"{len(killed)} points, {sum(point['seconds'] for point in points):.1f} s of processes")
    assert wrong(points) == []
    assert len(points) == len(killed) + WORKERS  # each worker went on to the scenario's end
    assert len(killed) >= 500 / STRIDE  # or the scenario ended without most of its calls


def test_a_second_crash_at_each_named_point_is_survived_too(tmp_path: Path) -> None:
    points = points_of([started(str(tmp_path / "named"), "named")])
    assert wrong(points) == []
    hit = {name for point in points if point["killed"] for name in point["points"]}
    assert set(REACHED) - hit == set()


def test_a_handler_that_kills_its_process_becomes_a_dead_letter_and_its_neighbours_do_not(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.faults.test_crash_sweep import deadly; "
        "deadly(Path(sys.argv[1]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found == {"kills": 6, "attempts": 6, "violations": []}  # the first one is not counted


def deadly(directory: Path) -> None:
    """In a process of its own: it forks, and this one has loops and threads behind it."""
    kills, attempts, verdicts = deadly_handler(directory)
    violations = [str(verdict) for verdict in verdicts if not verdict.ok]
    print(json.dumps({"kills": kills, "attempts": attempts, "violations": violations}))
