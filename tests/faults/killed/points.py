"""At the named crash points of the contracts: killed there, or frozen until others took over."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

from eventbus.errors import StorageError
from eventbus.testing.faults import FaultPlan, Kill
from tests.faults.crash import REACHED
from tests.faults.history import History
from tests.faults.killed.children import ended, forked, stopped_or_ended
from tests.faults.killed.ground import empty, pass_time
from tests.faults.killed.judge import believed, judge
from tests.faults.killed.outcome import Outcome, errors_in, hits_in
from tests.faults.killed.scenario import publishing, scenario

NAMED = tuple(sorted(REACHED))
FROZEN = (
    "relay.leased",
    "relay.sent",
    "relay.confirmed",
    "consumer.received",
    "consumer.handled",
    "consumer.commit_sent",
    "redelivery.claimed",
    "redelivery.handled",
)
"""Row 8: where a process stands still for longer than its leases last."""

CUT = frozenset({"EB5001", "EB5101"})  # what whoever waited in a transaction that was cut is told


def killed(url: str, directory: Path, point: str) -> Outcome:
    """Die at a named point, in the second process after one that died with messages in hand."""
    asyncio.run(empty(url))
    codes = []
    for name, place in (("first", "consumer.received"), ("second", point)):
        plan = FaultPlan.at(place, 1, Kill())
        pid = forked(directory, name, partial(_under, url, plan, signal.SIGKILL))
        codes.append(ended(pid))
        asyncio.run(pass_time(url))
    return finished(url, directory, point, hit=codes[-1] == -signal.SIGKILL)


def frozen(url: str, directory: Path, point: str) -> Outcome:
    """Stand still at a named point while another process does all the work; then go on.

    It believes that it still has its leases: no time has passed by its own clock.
    """
    asyncio.run(empty(url))
    ended(forked(directory, "client", partial(publishing, url)))
    plan = FaultPlan.at(point, 1, Kill())
    zombie = forked(directory, "zombie", partial(_under, url, plan, signal.SIGSTOP))
    hit = stopped_or_ended(zombie)
    asyncio.run(pass_time(url, cut_idle=True))
    successor = ended(forked(directory, "successor", partial(_under, url, FaultPlan(), None)))
    code = 1
    if hit:
        os.kill(zombie, signal.SIGCONT)
        code = ended(zombie)
    outcome = finished(url, directory, point, hit=hit)
    ends = {"zombie": code, "successor": successor}
    return outcome.also([f"{name} ended with {end}" for name, end in ends.items() if end])


def finished(url: str, directory: Path, point: str, *, hit: bool) -> Outcome:
    """A last process brings everything to rest; then it is judged."""
    code = ended(forked(directory, "last", partial(_under, url, FaultPlan(), None)))
    wrong = asyncio.run(judge(url, believed(directory))) if code == 0 else []
    return Outcome(
        point=point,
        hit=hit,
        finished=code == 0,
        hits=hits_in(directory),
        violations=[*wrong, *errors_in(directory)],
    )


async def _under(
    url: str, plan: FaultPlan, number: signal.Signals | None, history: History
) -> None:
    struck = False

    def strike() -> None:
        nonlocal struck
        if not struck:
            struck = True
            hit = plan.hits[-1]
            facts = {"call": f"{hit.role}:{hit.call}", "points": list(hit.points)}
            history.note("fault", "start", 0, value=facts)
            os.kill(os.getpid(), number or signal.SIGKILL)
        plan.frozen = False  # it was thawed: a zombie goes on as if nothing had happened

    plan.on_kill = strike
    try:
        await scenario(url, url, plan, history)
    except* StorageError as errors:
        # the server ended its transactions while it stood still
        if not (struck and number == signal.SIGSTOP) or errors.split(_was_cut)[1] is not None:
            raise


def _was_cut(error: BaseException) -> bool:
    return isinstance(error, StorageError) and error.code in CUT
