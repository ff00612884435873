"""Money is conserved, effects happen once and in order, whatever befalls whom.

`EVENTBUS_FAULTS=full` for 100,000 effects each, and for broken buses that the bank must find out.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from eventbus.testing.services import ServiceMissingError
from tests.faults.bank.scenario import Outcome, Plan, run

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
SEED = int(os.environ.get("EVENTBUS_SEED", "1"))
QUICK = Plan(seed=SEED, effects=2_000, hits=1, every=6.0, most_seconds=500.0)
LONG = Plan(seed=SEED, effects=100_000, hits=10, every=15.0, most_seconds=9_000.0)
PLAN = LONG if FULL else QUICK
QUICK_BROKER = Plan(seed=SEED, effects=600, hits=0, hits_at_all=3, every=1.0, most_seconds=120.0)
LONG_BROKER = Plan(
    seed=SEED, effects=100_000, hits=5, every=8.0, most_seconds=3_000.0, longest=20.0, nodes=3
)
FOUND_BY = {  # the figure that says it, though not all was worked off in the end
    "forgets_the_inbox": "duplicate",
    "holds_no_keys": "out of order",
    "jumps_over_late_commits": "out of order",
    "settles_before_handled": "violations",  # rows whose message is nowhere
}

pytestmark = pytest.mark.timeout(9_600 if FULL else 600)


async def survived(plan: Plan, directory: Path) -> Outcome:
    try:
        return await run(plan, directory)
    except ServiceMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"capability native-services: {' '.join(str(error).split())}")


def holds(outcome: Outcome, plan: Plan) -> None:
    print(f"seed {plan.seed}\n{outcome}")
    assert [str(verdict) for verdict in outcome.verdicts if not verdict.ok] == []
    assert outcome.surprises == []
    assert outcome.figures["effects"] >= plan.effects
    assert [kind for kind in outcome.kinds if outcome.hits[kind] < plan.hits] == []
    assert sum(outcome.hits.values()) >= plan.hits_at_all
    assert outcome.figures["redriven"] >= 3


async def test_a_bank_under_kills_drains_pauses_and_crashes_keeps_its_money_and_its_order(
    tmp_path: Path,
) -> None:
    outcome = await survived(PLAN, tmp_path)
    holds(outcome, PLAN)
    snapshots = next(verdict for verdict in outcome.verdicts if verdict.checker == "K4").figures
    assert snapshots["with money in transit"] >= 50


@pytest.mark.parametrize("transport", ["kafka", "rabbit"])
async def test_a_bank_on_a_broker_that_fails_too_keeps_its_money_and_its_order(
    transport: str, tmp_path: Path
) -> None:
    plan = replace(LONG_BROKER if FULL else QUICK_BROKER, transport=transport)
    outcome = await survived(plan, tmp_path)
    holds(outcome, plan)


@pytest.mark.skipif(not FULL, reason="capability: the long tier")
@pytest.mark.parametrize("mutant", sorted(FOUND_BY))
async def test_a_bank_on_a_broken_bus_is_found_out(mutant: str, tmp_path: Path) -> None:
    plan = Plan(
        seed=SEED, effects=2_000, every=3.0, most_seconds=60.0, rest_seconds=20.0, mutant=mutant
    )
    outcome = await survived(plan, tmp_path)
    found = [verdict.figures.get(FOUND_BY[mutant], 0) for verdict in outcome.verdicts]
    assert sum(found) > 0, str(outcome)
