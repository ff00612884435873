"""Rows 4 and 57: killed anywhere, a projection and its rebuild have the rows of a replay (K3).

`EVENTBUS_FAULTS=full` takes every point; otherwise one of `STRIDES`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.sourcing import following
from eventbus.sourcing.rebuild import Options
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import Conflict, Fault, FaultPlan, FaultyStorage, LoseLease, LoseReply
from tests.conformance.postgres import database
from tests.integration.sourcing.read_models import Sum, sell

ALL = os.environ.get("EVENTBUS_FAULTS") == "full"
STRIDES = {"sqlite": 1 if ALL else 7, "postgres": 1 if ALL else 23}  # a lease's time for each

NAMED = {
    "follow": {"projection.read", "projection.applied", "projection.commit_sent"},
    "rebuild": {"projection.read", "projection.commit_sent", "projection.switching"},
    "assist": {"projection.read", "projection.commit_sent"},
    "replay": {"projection.read", "projection.commit_sent", "projection.switching"},
    "rollback": {
        *("projection.read", "projection.applied", "projection.commit_sent"),
        "projection.switching",
    },
}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="capability: processes are forked"),
    pytest.mark.timeout(3600 if ALL else 300),
]


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """What is swept."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    with database() as url:
        yield url


@pytest.mark.parametrize(
    ("mode", "least"),
    [("follow", 60), ("rebuild", 60), ("assist", 20), ("replay", 60), ("rollback", 50)],
)
def test_a_process_killed_at_any_call_leaves_what_a_replay_gives(
    tmp_path: Path, where: str, mode: str, least: int
) -> None:
    stride = STRIDES["sqlite" if where == "sqlite" else "postgres"]
    command = [sys.executable, "-m", "tests.faults.projecting", where, str(tmp_path), mode]
    ran = subprocess.run([*command, "0", str(stride)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    points = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [point for point in points if point["wrong"] or point["failed"]] == []
    assert len(points) >= least / stride
    assert sum(not point["killed"] for point in points) == 1  # it went on to the end
    if ALL:
        assert {name for point in points for name in point["names"]} == NAMED[mode]


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("projection:*", Conflict()),
        ("projection:commit", LoseReply()),
        ("projection:checkpoints.save", LoseLease()),
        ("projection:leases.renew", LoseLease()),
    ],
    ids=["conflict", "lost reply", "lost lease", "lost lease at renewal"],
)
async def test_a_fault_at_any_call_loses_and_doubles_nothing(
    call: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "TROUBLED_SECONDS", 0.001)
    monkeypatch.setattr(following, "PAGE", 2)
    nth, hit = 1, True
    while hit:
        hit = await survived(call, nth, fault)
        nth += 1
    assert nth > 1 or call.endswith("renew")


async def survived(call: str, nth: int, fault: Fault) -> bool:
    """Whether the fault happened; the rows are right then."""
    revenue = Sum()
    revenue.refused = {13}
    plan = FaultPlan().add(call, nth, fault)
    storage = FaultyStorage(SqliteStorage(), plan)
    async with EventBus("memory://", storage=storage, handlers=[revenue.projection()]) as bus:
        await sell(bus, ("UK", 1), ("FR", 2), ("UK", 13), ("FR", 3), ("UK", 4), ("DE", 5))
        await bus.until_idle()
        revenue.refused = set()
        await bus.parked.change("release", actor="test")
        await bus.until_idle()
        hit = bool(plan.hits)
        plan.heal()
        assert await revenue.rows(bus) == {"UK": (3, 18), "FR": (2, 5), "DE": (1, 5)}, (nth, fault)
        await bus.projections.rebuild(revenue.name, options=Options(require_equal=True))
    return hit
