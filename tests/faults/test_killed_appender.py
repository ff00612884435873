"""Row 5: a killed appender leaves all of an append or nothing, and a retry doubles none.

`EVENTBUS_FAULTS=full` kills at every round trip with PostgreSQL, otherwise at some.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database

ROOT = Path(__file__).parents[2]

STEP = 1 if os.environ.get("EVENTBUS_FAULTS") == "full" else 7
PLACES = {"sqlite": 20, "postgres": 70}  # at least

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="capability: processes are forked"),
    pytest.mark.timeout(240),
]


@pytest.fixture
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, storage: str, tmp_path: Path) -> str:
    if storage == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    return f"{request.getfixturevalue('server')}?schema={unique('appender')}"


def swept(url: str, directory: Path, step: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.faults.appender", url, str(directory), str(step)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=220
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_anywhere_nothing_is_half_there_and_the_same_ids_again_double_nothing(
    storage: str, url: str, tmp_path: Path
) -> None:
    step = 1 if storage == "sqlite" else STEP
    *hits, last = swept(url, tmp_path, step)
    assert [each for each in [*hits, last] if each["wrong"]] == []
    assert {each["code"] for each in hits} == {-9}
    assert last["code"] == 0  # the job was over before the place was reached
    assert len(hits) * step >= PLACES[storage]
