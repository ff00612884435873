"""K8: what it accepts, and each thing that it is for."""

from dataclasses import replace

import pytest

from tests.faults.checkers.automaton import Entry, Story, automaton

DONE = {"hold": 1, "pay": 1}
UNDOES = {"hold": "release"}


def entry(version: int, was: str | None, to: str, fence: int | None = None) -> Entry:
    return Entry(version=version, kind="replied", was=was, to=to, fence=fence)


COMPLETED = Story(
    key="t1",
    version=3,
    status="completed",
    journal=[
        entry(1, None, "running"),
        entry(2, "running", "running", fence=2),
        entry(3, "running", "completed"),
    ],
    undone=[],
    effects=DONE,
)
COMPENSATED = Story(
    key="t2",
    version=3,
    status="compensated",
    journal=[
        entry(1, None, "running"),
        entry(2, "running", "compensating"),
        entry(3, "compensating", "compensated"),
    ],
    undone=[1, 0],
    effects={"hold": 1, "release": 1},
)


def wrong(story: Story) -> str:
    verdict = automaton([story], done=DONE, undoes=UNDOES)
    assert verdict.ok == (not verdict.counterexample)
    return "; ".join(str(each) for each in verdict.counterexample)


def test_k8_accepts_what_is_done_or_undone() -> None:
    verdict = automaton([COMPLETED, COMPENSATED], done=DONE, undoes=UNDOES)
    assert verdict.ok
    assert verdict.figures == {
        "sagas": 2,
        "completed": 1,
        "compensated": 1,
        "inputs replied": 6,
        "violations": 0,
    }
    assert wrong(replace(COMPENSATED, effects={})) == ""


@pytest.mark.parametrize(
    ("story", "what"),
    [
        (replace(COMPLETED, status="running"), "it is running"),
        (replace(COMPLETED, effects={"hold": 1}), "took effect as {'hold': 1}"),
        (replace(COMPLETED, effects={"hold": 2, "pay": 1}), "hold took effect 2 times"),
        (replace(COMPENSATED, effects={"hold": 1}), "hold took effect 1, was undone 0 times"),
        (replace(COMPENSATED, effects={"pay": 1}), "pay took effect 1, was undone 0 times"),
        (replace(COMPENSATED, undone=[0, 1]), "undone in the order [0, 1]"),
        (replace(COMPLETED, version=4), "has the versions [1, 2, 3], it is at 4"),
        (replace(COMPLETED, journal=COMPLETED.journal[1:]), "has the versions [2, 3]"),
        (
            replace(COMPENSATED, journal=[*COMPENSATED.journal[:2], entry(3, "running", "stuck")]),
            "version 3 begins at running, the one before ended at compensating",
        ),
        (
            replace(
                COMPENSATED, journal=[*COMPENSATED.journal[:2], entry(3, "compensating", "running")]
            ),
            "version 3 leads from compensating to running",
        ),
        (
            replace(
                COMPLETED,
                journal=[
                    entry(1, None, "running", fence=3),
                    entry(2, "running", "running", fence=2),
                    entry(3, "running", "completed"),
                ],
            ),
            "under the fences [3, 2]",
        ),
    ],
)
def test_k8_finds(story: Story, what: str) -> None:
    assert what in wrong(story)
