"""Every broken pipeline is found out by its suite, and the suites find nothing in the whole one."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.mutants_pipeline import (
    MUTANTS,
    Suite,
    bare,
    outages,
    silences,
    thefts,
    zombies,
)

WORKERS = 2
QUIET = 40  # schedules in which a suite without a mutant must find nothing

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="row 39 forks processes"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def catches() -> dict[str, dict[str, Any]]:
    with ThreadPoolExecutor(WORKERS) as pool:
        found = {catch["mutant"]: catch for catch in pool.map(hunted, MUTANTS)}
    for name, catch in found.items():
        number = MUTANTS[name].number
        print(
            f"{number or 'own':>4} {name:56} {MUTANTS[name].suite.__name__:9} "
            f"{catch['schedules']:4} schedules {catch['seconds']:6.2f} s  "
            f"{catch['caught_by'] or 'SURVIVED'}"
        )
    return found


def hunted(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.faults.mutants_pipeline", name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{name}: {ran.stderr}"
    catch: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return catch


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(catches: dict[str, dict[str, Any]], name: str) -> None:
    assert catches[name]["caught_by"]


@pytest.fixture
def silent() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("suite", [bare, outages, silences, thefts, zombies])
@pytest.mark.usefixtures("silent")
def test_a_suite_finds_nothing_where_nothing_is_broken(suite: Suite) -> None:
    found = {seed: caught for seed in range(QUIET) if (caught := suite(seed)) is not None}
    assert found == {}
