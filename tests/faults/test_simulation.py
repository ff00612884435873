"""Thousands of seeded schedules of whole buses: nothing is lost, doubled, overtaken or torn.

`EVENTBUS_SCHEDULES` says how many, `EVENTBUS_FIRST_SEED` from which seed on. One seed again:
`python -m tests.faults.test_simulation SEED`.
"""

import logging
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import pytest

from eventbus.testing.faults import Hit
from tests.faults.coverage import missing
from tests.faults.simulation import Outcome, simulate

SCHEDULES = int(os.environ.get("EVENTBUS_SCHEDULES", "2000"))
WORKERS = 2
FIRST = int(os.environ.get("EVENTBUS_FIRST_SEED", "0"))
pytestmark = pytest.mark.timeout(120 + SCHEDULES)


@dataclass(slots=True)
class Run:
    """All schedules together."""

    failures: dict[int, str] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    seconds: float = 0.0


@pytest.fixture(scope="module")
def run() -> Run:
    run = Run()
    began = time.perf_counter()
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        for part in pool.map(_part, range(WORKERS)):
            run.failures |= part.failures
            run.hits += part.hits
            run.marks += part.marks
            run.turns += part.turns
    run.seconds = time.perf_counter() - began
    print(
        f"\n{SCHEDULES} schedules, {run.turns} turns, {run.seconds:.1f} s,"
        f" {SCHEDULES / run.seconds:.1f}/s; {len(run.hits)} faults; {dict(run.marks)}"
    )
    return run


def _part(worker: int) -> Run:
    """Every n-th seed, in a process of its own."""
    logging.disable(logging.CRITICAL)  # faults are logged, thousands of them
    run = Run()
    for seed in range(FIRST + worker, FIRST + SCHEDULES, WORKERS):
        try:
            outcome = simulate(seed)
        except Exception as error:
            run.failures[seed] = repr(error)
            continue
        _note(run, outcome)
    return run


def _note(run: Run, outcome: Outcome) -> None:
    if outcome.violations:
        run.failures[outcome.scenario.seed] = "\n".join(map(str, outcome.violations))
    run.hits += outcome.hits
    run.marks += outcome.marks
    run.turns += outcome.turns


def test_no_schedule_breaks_a_promise_or_gets_stuck(run: Run) -> None:
    shown = [f"seed {seed}: {why}" for seed, why in sorted(run.failures.items())]
    assert not shown, "\n".join([f"failing seeds: {sorted(run.failures)}", *shown[:10]])


@pytest.mark.skipif(SCHEDULES < 1000, reason="coverage is asked of a run of 1000 schedules")
def test_every_crash_point_and_every_kind_of_fault_was_hit(run: Run) -> None:
    assert missing(run.hits, run.marks) == set()


def test_a_seed_gives_the_same_schedule_whatever_the_hash_seed() -> None:
    seeds = [3, 11, 24]
    here = [(simulate(seed).turns, simulate(seed).digest) for seed in seeds]
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.faults.test_simulation", *map(str, seeds)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.split() for line in ran.stdout.splitlines() if line.startswith("seed")]
        assert [(int(line[3]), int(line[5])) for line in lines] == here


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for number in map(int, sys.argv[1:]):
        found = simulate(number)
        print("seed", number, "turns", found.turns, "digest", found.digest)
        print(found.scenario, dict(found.marks), *found.hits, *found.verdicts, sep="\n  ")
