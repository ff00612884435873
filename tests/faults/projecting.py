"""A projection on one database, killed at a chosen call; the next process goes on.

`python -m tests.faults.projecting WHERE DIRECTORY MODE FIRST STEP` sweeps. MODE is `follow`,
`rebuild`, `assist`, `replay`, which rebuilds one of the general form, or `rollback`, of an inline
projection whose later version has more than the one of before. WHERE is `sqlite`, or the URL of an
empty PostgreSQL database. For each point a process is forked that dies there by SIGKILL, another
one that finishes and judges: the rows are those of the events, and a replay from zero gives the
same. One JSON line per point. Point 2n is before, 2n+1 after the n-th call of the storage's
contract by the projector.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eventbus import EventBus
from eventbus.errors import ProjectionError
from eventbus.sourcing import (
    following,
    holdings,
)
from eventbus.sourcing.rebuild import Beat, Options, owner, parts
from eventbus.testing.faults import FaultPlan, FaultyStorage, Kill
from tests.faults.projected_places import places, storage_at
from tests.faults.projected_sales import (
    POISON,
    Code,
    SalesApplied,
    SalesByCountry,
    SalesInline,
    Sold,
)
from tests.integration.sourcing.read_models import until

T = TypeVar("T")

ORDERS = [("UK", 1), ("FR", 2), ("UK", POISON), ("DE", 3), ("UK", 4), ("FR", 5), ("DE", 6)]
EXPECTED = {"UK": (3, 18), "FR": (2, 7), "DE": (2, 9)}
LATE = ("FR", 50)
EQUAL = Options(require_equal=True)
IN_PARTS = Options(parts=2, page=2)
ENOUGH = timedelta(seconds=30)  # a lease of who was killed is waited for, on any machine

_projection: Any = SalesByCountry


def bus_on(place: str, plan: FaultPlan | None = None) -> EventBus:
    """A bus whose storage meets a plan."""
    storage = storage_at(place)
    given = storage if plan is None else FaultyStorage(storage, plan)
    return EventBus("memory://", storage=given, handlers=[_projection])


async def sell(bus: EventBus, *orders: tuple[str, int]) -> None:
    """Each in a stream of its own, and not published."""
    for number, (country, cents) in enumerate(orders):
        event = Sold(order=str(number), country=country, cents=cents)
        await bus.events.append(f"sold-{country}", [event], expected="any", publish=False)


async def fill(place: str, *, followed: bool) -> None:
    """The log; and, followed, the read model at its end."""
    Code.mended = followed
    bus = bus_on(place)
    await bus.upgrade()
    async with bus if followed else bus.client():
        if isinstance(_projection, SalesApplied):
            await _projection.made(bus)
        await sell(bus, *ORDERS)
        if followed:
            await bus.until_idle()
    Code.mended = False


def planned(point: int, hits: Path) -> FaultPlan:
    """A kill at a point; the crash points by name that this was are left in a file."""
    number, after = divmod(point, 2)
    plan = FaultPlan().add("projection:*", number + 1, Kill(after=bool(after)))

    def die() -> None:
        names = [name for hit in plan.hits for name in hit.points]
        hits.write_text(json.dumps(names), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)

    plan.on_kill = die
    return plan


def quick_leases() -> None:
    """Those of a process that was killed run out soon."""
    holdings.TTL, holdings.RENEW_SECONDS, holdings.LOOK_SECONDS = timedelta(seconds=2), 0.6, 0.1
    owner.TTL, owner.BEAT_SECONDS = timedelta(seconds=2), 0.5
    parts.TTL, parts.BEAT_SECONDS = timedelta(seconds=2), 0.5


async def follow(place: str, point: int, hits: Path) -> None:
    """Follow to the end, unless killed."""
    following.PAGE = 2  # several pages
    async with bus_on(place, planned(point, hits)) as bus:
        await bus.until_idle()
        await sell(bus, LATE)
        await bus.until_idle()


async def rebuild(place: str, point: int, hits: Path) -> None:
    """Rebuild with the mended code, unless killed."""
    Code.mended = True
    bus = bus_on(place, planned(point, hits))
    async with bus.client():
        work = bus.projections.rebuild("sales", options=IN_PARTS)
        await asyncio.create_task(work, name="projection:rebuild")


async def rollback(place: str, point: int, hits: Path) -> None:
    """Let the version of before serve again, unless killed."""
    Code.mended = True
    bus = bus_on(place, planned(point, hits))
    async with bus.client():
        await asyncio.create_task(bus.projections.rollback("sales"), name="projection:rollback")


async def leave_behind(place: str) -> None:
    """Two inline versions, the later of which serves, and has an order that the other lacks."""
    Code.mended = True
    bus = bus_on(place)
    await bus.upgrade()
    async with bus.client():
        await sell(bus, *ORDERS)
        await bus.projections.rebuild("sales", options=EQUAL)
        await sell(bus, LATE)


async def begin(place: str) -> None:
    """Lead a rebuild, and leave it as soon as there are parts that others can take."""
    Code.mended = True

    def leave(beat: Beat) -> None:
        if beat.phase == "replay":
            raise _LeftError

    bus = bus_on(place)
    async with bus.client():
        with suppress(_LeftError):
            await bus.projections.rebuild("sales", options=IN_PARTS, beat=leave)


class _LeftError(Exception):
    pass


async def assist(place: str, point: int, hits: Path) -> None:
    """Copy the parts of a rebuild that nobody leads any more, unless killed."""
    Code.mended = True
    bus = bus_on(place, planned(point, hits))
    async with bus.client():
        work = bus.projections.assist("sales", options=IN_PARTS)
        await asyncio.create_task(work, name="projection:assist")


async def judge(place: str) -> dict[str, Any]:
    """Finish with the mended code; what is wrong then."""
    Code.mended = True
    async with bus_on(place) as bus:
        await bus.until_idle(at_most=ENOUGH)
        await bus.parked.change("release", actor="test")
        await bus.until_idle(at_most=ENOUGH)
        if _projection is SalesInline:
            await brought_back(bus)
        rows = await table(bus)
        late = rows.get("FR") == (3, 57)
        expected = EXPECTED | ({"FR": (3, 57)} if late else {})
        differ = await replayed(bus)
        wrong = [] if rows == expected else [f"{rows} instead of {expected}"]
        if differ or await table(bus) != rows:
            wrong.append("a replay from zero gives other rows")
        parked = await bus.parked.list()
        wrong += [f"{row['key']} still waits" for row in parked]
        return {"wrong": wrong, "late": late}


async def brought_back(bus: EventBus) -> None:
    """The rollback is done; if it was killed before it had switched, by somebody else."""
    if (await bus.projections.status("sales")).version == 2:
        await _once_free(lambda: bus.projections.rollback("sales"))
    standing = await bus.projections.status("sales")
    assert standing.versions == {1: "active", 2: "retired"}


async def replayed(bus: EventBus) -> int:
    """How many rows differ from a replay."""
    rebuilt = await _once_free(lambda: bus.projections.rebuild("sales", options=EQUAL))
    return rebuilt.difference.differ


async def _once_free(act: Callable[[], Awaitable[T]]) -> T:
    """Who was killed may have its lease a while."""
    found: list[T] = []

    async def done() -> bool:
        try:
            found.append(await act())
        except ProjectionError as error:
            if error.code != "EB6004":
                raise
        return bool(found)

    await until(done)
    return found[0]


async def table(bus: EventBus) -> dict[str, tuple[int, int]]:
    """The rows."""
    assert bus.storage is not None
    async with bus.storage.transaction() as tx:
        found = await tx.sql.fetch("SELECT * FROM sales")
    return {row["country"]: (row["orders"], row["cents"]) for row in found}


def forked(work: Callable[[], Awaitable[Any]], out: Path | None = None) -> int:
    """Run it in a process of its own; how that ended."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return status
    try:
        result = asyncio.run(_awaited(work))
        if out is not None:
            out.write_text(json.dumps(result), encoding="utf-8")
    except BaseException as error:
        if out is not None:
            out.write_text(json.dumps({"wrong": [repr(error)], "late": False}), encoding="utf-8")
        os._exit(1)
    os._exit(0)


async def _awaited(work: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(3 * ENOUGH.total_seconds()):
        return await work()


ACTS = {
    "follow": follow,
    "rebuild": rebuild,
    "assist": assist,
    "replay": rebuild,
    "rollback": rollback,
}


def main(where: str, directory: Path, mode: str, first: int, step: int) -> None:
    """Every `step`-th point from `first` on, to the end of the scenario."""
    directory.mkdir(parents=True, exist_ok=True)
    quick_leases()
    global _projection  # noqa: PLW0603 - of all processes that are forked
    _projection = {"replay": SalesApplied(), "rollback": SalesInline}.get(mode, SalesByCountry)
    copies = places(where, directory)
    if mode == "rollback":
        assert forked(lambda: leave_behind(copies.template)) == 0
    else:
        assert forked(lambda: fill(copies.template, followed=mode != "follow")) == 0
    if mode == "assist":
        assert forked(lambda: begin(copies.template)) == 0
    point, killed = first, True
    while killed:
        place, hits = copies.fresh(point), directory / f"{point}.hits"
        status = forked(partial(ACTS[mode], place, point, hits))
        killed = os.WIFSIGNALED(status)
        out = directory / f"{point}.json"
        forked(partial(judge, place), out)
        verdict = json.loads(out.read_text(encoding="utf-8"))
        names = json.loads(hits.read_text(encoding="utf-8")) if hits.exists() else []
        ended = {"point": point, "killed": killed, "failed": not killed and status != 0}
        print(json.dumps(ended | {"names": names} | verdict), flush=True)
        copies.gone(place)
        point += step


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
