"""Sagas end done or undone, each effect once, whatever befalls processes, database and versions.

K4 and K8 on PostgreSQL with Kafka and with RabbitMQ: kill -9 of workers (row 3), zombies past
their leases (8, 55), crashes of the database (17) and outages of the broker, wrong clocks (32),
compensation under all of it (46), the same key for the outside (60). `EVENTBUS_FAULTS=full` for
10,000 sagas on each broker, and for broken workers that the bank must find out.
"""

import os
from pathlib import Path

import pytest

from eventbus.testing.services import ServiceMissingError
from tests.faults.saga_bank.scenario import Outcome, Plan, run

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
SEED = int(os.environ.get("EVENTBUS_SEED", "1"))

pytestmark = pytest.mark.timeout(3_600 if FULL else 360)


async def survived(plan: Plan, directory: Path) -> Outcome:
    try:
        outcome = await run(plan, directory)
    except ServiceMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"capability native-services: {' '.join(str(error).split())}")
    print(f"seed {plan.seed}\n{outcome}")
    return outcome


@pytest.mark.parametrize(
    "broker",
    [
        "rabbit",
        pytest.param(
            "kafka", marks=pytest.mark.skipif(not FULL, reason="capability: the long tier")
        ),
    ],
)
async def test_sagas_under_kills_drains_pauses_and_crashes_end_with_all_their_effects_or_none(
    broker: str, tmp_path: Path
) -> None:
    plan = Plan(
        seed=SEED,
        sagas=10_000 if FULL else 30,
        transport=broker,
        hits=3 if FULL else 0,
        hits_at_all=24 if FULL else 3,
        every=15.0 if FULL else 5.0,
        most_seconds=3_000.0 if FULL else 150.0,
        rest_seconds=400.0 if FULL else 150.0,
        versions=("1",) * (4 if FULL else 2),
        clocks=(0, 7_200, -7_200, 259_200),
    )
    outcome = await survived(plan, tmp_path)
    assert outcome.wrong == []
    assert outcome.surprises == []
    assert outcome.of("K8")["sagas"] >= plan.sagas
    assert [kind for kind in outcome.kinds if outcome.hits[kind] < plan.hits] == []
    assert sum(outcome.hits.values()) >= plan.hits_at_all
    assert outcome.of("K8")["completed"] > 0
    assert outcome.of("K8")["compensated"] > plan.sagas / 10
    assert outcome.of("K4")["with money in transit"] >= 3


@pytest.mark.parametrize("broker", ["rabbit", "kafka"])
async def test_old_and_new_builds_side_by_side_lose_no_saga(broker: str, tmp_path: Path) -> None:
    plan = Plan(
        seed=SEED,
        sagas=2_000 if FULL else 60,
        transport=broker,
        faults=False,
        most_seconds=900.0 if FULL else 120.0,
        rest_seconds=300.0 if FULL else 100.0,
        versions=("1", "1"),
        then=((0, "2 alone"), (1, "1"), (0, "2"), (1, "2")),
    )
    outcome = await survived(plan, tmp_path)
    assert outcome.wrong == []
    assert outcome.surprises == []
    assert outcome.of("K8")["inputs handed-over"] > 0  # or no version was missing anywhere
    assert outcome.figures["at version 1"] > 0
    assert outcome.figures["at version 2"] > 0


@pytest.mark.skipif(not FULL, reason="capability: the long tier")
@pytest.mark.parametrize("mutant", ["no_fence", "loses_commands"])
async def test_broken_workers_are_found_out(mutant: str, tmp_path: Path) -> None:
    plan = Plan(
        seed=SEED,
        sagas=300,
        transport="rabbit",
        every=3.0,
        most_seconds=60.0,
        rest_seconds=30.0,
        mutant=mutant,
    )
    outcome = await survived(plan, tmp_path)
    assert outcome.of("K8")["violations"] > 0
