"""Random programs of sagas end as counters in memory say, whatever is killed on the way.

`EVENTBUS_FAULTS=full` for more than a thousand programs.
"""

import os

import pytest

from eventbus.saga import compensation
from eventbus.saga.instance import Plan
from tests.faults import saga_programs

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
SEEDS = range(60 if FULL else 4)
AMOUNT = 20  # programs of a seed

pytestmark = pytest.mark.timeout(1_200 if FULL else 240)


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_end_as_the_model_says(seed: int) -> None:
    outcome = saga_programs.run(seed, AMOUNT)
    assert outcome.wrong == []
    assert len(outcome.statuses) == AMOUNT
    assert outcome.kills > 0  # or nothing was tried


def test_a_plan_that_leaves_one_undo_out_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compensation.plan_of_undos
    monkeypatch.setattr(
        compensation, "plan_of_undos", lambda draft: Plan(plan(draft).undos[1:] or ())
    )
    wrong = saga_programs.run(0, AMOUNT).wrong
    assert any("stands at" in each for each in wrong)
