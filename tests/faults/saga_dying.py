"""Sagas in one database, whose worker dies or stands still at a chosen call; the next one goes on.

`python -m tests.faults.saga_dying WHERE DIRECTORY ROLE FIRST STEP`, ROLE consumer, timers or calls,
kills a process by SIGKILL at each point, point 2n before and 2n+1 after the n-th call of the
storage's contract by tasks of that role; another process finishes and judges. Tasks take turns as
they like, so `named` kills at each passing of each of `NAMED`, and `frozen` stops a process there
until another one has taken over and done the work, then lets it go on. WHERE is `sqlite`, or the
URL of an empty PostgreSQL database. One JSON line per point.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from eventbus import EventBus
from eventbus.errors import StorageError
from eventbus.saga import calls
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import FaultPlan, FaultyStorage, Kill
from tests.faults import dying_orders
from tests.faults.dying_orders import DONE, ENDS, HANDLERS, TABLE, UNDONE, Placed
from tests.faults.killed import children
from tests.faults.killed.ground import SCHEMA, pass_time, storage_at
from tests.faults.projected_places import Places, places
from tests.faults.projecting import forked

SLOWEST = timedelta(minutes=2)  # until nothing is on its way, on a machine that others use
NAMED = (
    "saga.received",
    "saga.advanced",
    "saga.commanded",
    "saga.commit_sent",
    "saga.timer_fired",
    "saga.call_claimed",
    "saga.call_done",
    "saga.compensating",
    "participant.fenced",
)
"""Crash points. Row 8: frozen there until its leases are over and its transactions are cut."""


def bus_on(place: str, plan: FaultPlan | None = None) -> EventBus:
    """A bus whose storage meets a plan."""
    calls.LEASE = timedelta(milliseconds=300)
    storage = storage_at(place) if "://" in place else SqliteStorage(place)
    given = storage if plan is None else FaultyStorage(storage, plan)
    return EventBus("memory://", storage=given, handlers=HANDLERS)


async def fill(place: str) -> None:
    """Both orders wait in the outbox."""
    bus = bus_on(place)
    await bus.upgrade()
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.sql.execute(TABLE)
        for order in ENDS:
            await bus.publish(Placed(order_id=order))


def killed_at(role: str, point: int) -> FaultPlan:
    """A kill before or after the n-th call."""
    number, after = divmod(point, 2)
    return FaultPlan().add(f"{role}:*", number + 1, Kill(after=bool(after)))


async def live(place: str, plan: FaultPlan, strike: signal.Signals, hits: Path) -> None:
    """To the end of both sagas, unless struck; the crash points that this was are left in a file.

    Thawed, a zombie goes on as if nothing had happened.
    """

    def struck() -> None:
        names = [name for hit in plan.hits for name in hit.points]
        hits.write_text(json.dumps(names), encoding="utf-8")
        os.kill(os.getpid(), strike)
        plan.frozen = False

    plan.on_kill = struck
    async with bus_on(place, plan) as bus:
        await ended(bus)


async def ended(bus: EventBus) -> dict[str, str]:
    """The statuses, once no saga is open, or after a while."""
    found: dict[str, str] = {}
    for _ in range(800):  # at most as long as leases of the dead one
        with suppress(TimeoutError, StorageError):  # leases of the dead; a thawed one was cut off
            await bus.until_idle(at_most=timedelta(seconds=1))
        with suppress(StorageError):
            found = {one.key: one.status for one in await bus.sagas.list()}
        if found == ENDS:
            break
        await asyncio.sleep(0.025)
    await bus.until_idle(at_most=SLOWEST)
    return found


async def judge(place: str) -> dict[str, Any]:
    """Finish; what is wrong then."""
    async with bus_on(place) as bus:
        found = await ended(bus)
        wrong = [] if found == ENDS else [f"{found} instead of {ENDS}"]
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch("SELECT order_id, step, change FROM effects")
            table = f"{SCHEMA}.saga_stash" if "://" in place else "eventbus_saga_stash"
            stashed = await tx.sql.fetch(f"SELECT 1 FROM {table}")
        wrong += _wrong_effects([(row["order_id"], row["step"], row["change"]) for row in rows])
        wrong += [f"an input waits: {row}" for row in stashed]
        wrong += [f"{row['id']} is parked" for row in await bus.parked.list()]
    asked = dying_orders.outside.read_text(encoding="utf-8").splitlines()
    if len(set(asked)) != len(ENDS):
        wrong.append(f"calls under other effect ids: {asked}")
    return {"wrong": wrong, "calls": len(asked)}


def _wrong_effects(rows: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    sums: Counter[tuple[str, str]] = Counter()
    for order, step, change in rows:
        sums[order, step] += change
    for order, expected in (("good", DONE), ("bad", UNDONE)):
        told = {step: total for (key, step), total in sums.items() if key == order}
        if told != expected:
            yield f"{order}: {told} instead of {expected}"
    if len(rows) != len(set(rows)):
        yield "an effect was there twice"


def at_point(copies: Places, directory: Path, point: int, plan: FaultPlan) -> dict[str, Any]:
    """Killed there, if the scenario comes there; then what is wrong."""
    place, hits, out = copies.fresh(point), directory / f"{point}.hits", directory / f"{point}.json"
    dying_orders.outside = directory / f"{point}.log"
    status = forked(partial(live, place, plan, signal.SIGKILL, hits))
    killed = os.WIFSIGNALED(status)
    if "://" in place:
        asyncio.run(pass_time(place))
    forked(partial(judge, place), out)
    copies.gone(place)
    failed = not killed and status != 0
    told = {"point": point, "killed": killed, "failed": failed, "names": _read(hits)}
    return {**told, **_read(out)}


def while_frozen(copies: Places, directory: Path, number: int) -> dict[str, Any]:
    """Stopped there while another process does all that is left; then it goes on to its end."""
    place, hits, out = copies.fresh(number), directory / f"{number}.hits", directory / f"{number}"
    dying_orders.outside = directory / f"{number}.log"
    plan = FaultPlan.at(NAMED[number], 1, Kill())
    work = partial(live, place, plan, signal.SIGSTOP, hits)
    zombie = children.forked(directory, f"zombie-{number}", lambda _: work())
    stopped = children.stopped_or_ended(zombie)
    try:
        asyncio.run(pass_time(place, cut_idle=True))
    except BaseException:
        if stopped:
            os.kill(zombie, signal.SIGKILL)  # it holds our output open: who reads it would wait
        raise
    forked(partial(judge, place), out)
    told = _read(out)
    if stopped:
        os.kill(zombie, signal.SIGCONT)
        code = children.ended(zombie)
        forked(partial(judge, place), out)
        told["wrong"] += _read(out)["wrong"] + ([f"the zombie: {code}"] if code else [])
    copies.gone(place)
    return {"stopped": stopped, "names": _read(hits), **told}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def main(where: str, directory: Path, role: str, first: int, step: int) -> None:
    """Every `step`-th point from `first` on, to the end of the scenario or of `NAMED`."""
    directory.mkdir(parents=True, exist_ok=True)
    copies = places(where, directory)
    status = forked(partial(fill, copies.template))
    assert status == 0, status
    if role == "frozen":
        for number in range(first, len(NAMED), step):
            print(json.dumps(while_frozen(copies, directory, number)), flush=True)
        return
    if role != "named":
        sweep(copies, directory, ((point, killed_at(role, point)) for point in count(first, step)))
        return
    for number in range(first, len(NAMED), step):
        plans = ((nth, FaultPlan.at(NAMED[number], nth, Kill())) for nth in count(1))
        sweep(copies, directory, ((1000 * number + nth, plan) for nth, plan in plans))


def sweep(copies: Places, directory: Path, plans: Iterable[tuple[int, FaultPlan]]) -> None:
    """Until the scenario ends without a kill."""
    for point, plan in plans:
        told = at_point(copies, directory, point, plan)
        print(json.dumps(told), flush=True)
        if not told["killed"]:
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
