"""A projection on one database, killed at a chosen call; the next process goes on.

`python -m tests.faults.projecting WHERE DIRECTORY follow|rebuild|assist|replay FIRST STEP` sweeps;
`replay` rebuilds one of the general form. WHERE is `sqlite`, or the URL of an empty PostgreSQL
database. For each point a process is forked that
dies there by SIGKILL, another one that finishes and judges: the rows are those of the events, and a
replay from zero gives the same. One JSON line per point. Point 2n is before, 2n+1 after the n-th
call of the storage's contract by the projector.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

from eventbus import Event, EventBus
from eventbus.errors import ProjectionError
from eventbus.sourcing import (
    FoldingProjection,
    ReadModel,
    RecordedEvent,
    View,
    following,
    holdings,
    projects,
)
from eventbus.sourcing.rebuild import Beat, Options, Rebuilt, owner, parts
from eventbus.testing.faults import FaultPlan, FaultyStorage, Kill
from tests.faults.projected_places import places, storage_at
from tests.integration.sourcing.read_models import until

POISON = 13
ORDERS = [("UK", 1), ("FR", 2), ("UK", POISON), ("DE", 3), ("UK", 4), ("FR", 5), ("DE", 6)]
EXPECTED = {"UK": (3, 18), "FR": (2, 7), "DE": (2, 9)}
LATE = ("FR", 50)
EQUAL = Options(require_equal=True)
IN_PARTS = Options(parts=2, page=2)
ENOUGH = timedelta(seconds=30)  # a lease of who was killed is waited for, on any machine

_poisonous = True


class Sold(Event, type="shop.sold", key="order"):
    order: str
    country: str
    cents: int


class Sales(ReadModel, table="sales", key="country"):
    country: str
    orders: int = 0
    cents: int = 0


class SalesByCountry(FoldingProjection[Sales], name="sales"):
    @projects(Sold, key=lambda event: event.country)
    def sold(self, row: Sales, event: Sold) -> Sales:
        if _poisonous and event.cents == POISON:
            raise ValueError("poison")
        return row.model_copy(update={"orders": row.orders + 1, "cents": row.cents + event.cents})


class SalesApplied:
    """The same by the general form: a table of its own, under the same name."""

    name = "sales"
    tables = ("sales",)
    handles = (Sold,)
    by_stream = True

    async def apply(self, events: Sequence[RecordedEvent], view: View) -> None:
        for one in events:
            event = cast("Sold", one.event)
            if _poisonous and event.cents == POISON:
                raise ValueError("poison")
            await view.sql.execute(
                f"INSERT INTO {view.table('sales')} AS s VALUES ($1, 1, $2)"
                " ON CONFLICT (country) DO UPDATE"
                " SET orders = s.orders + 1, cents = s.cents + excluded.cents",
                event.country,
                event.cents,
            )

    async def made(self, bus: EventBus) -> None:
        async with bus.transaction() as tx:
            await tx.sql.execute(
                "CREATE TABLE sales (country text PRIMARY KEY, orders bigint, cents bigint)"
            )


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
    global _poisonous  # noqa: PLW0603 - the code that is mended
    _poisonous = not followed
    bus = bus_on(place)
    await bus.upgrade()
    async with bus if followed else bus.client():
        if isinstance(_projection, SalesApplied):
            await _projection.made(bus)
        await sell(bus, *ORDERS)
        if followed:
            await bus.until_idle()
    _poisonous = True


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


def mended() -> None:
    """The code that takes every order."""
    global _poisonous  # noqa: PLW0603 - the code that is mended
    _poisonous = False


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
    mended()
    bus = bus_on(place, planned(point, hits))
    async with bus.client():
        work = bus.projections.rebuild("sales", options=IN_PARTS)
        await asyncio.create_task(work, name="projection:rebuild")


async def begin(place: str) -> None:
    """Lead a rebuild, and leave it as soon as there are parts that others can take."""
    mended()

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
    mended()
    bus = bus_on(place, planned(point, hits))
    async with bus.client():
        work = bus.projections.assist("sales", options=IN_PARTS)
        await asyncio.create_task(work, name="projection:assist")


async def judge(place: str) -> dict[str, Any]:
    """Finish with the mended code; what is wrong then."""
    mended()
    async with bus_on(place) as bus:
        await bus.until_idle(at_most=ENOUGH)
        await bus.parked.change("release", actor="test")
        await bus.until_idle(at_most=ENOUGH)
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


async def replayed(bus: EventBus) -> int:
    """How many rows differ from a replay; a rebuild that was killed may have its lease a while."""
    found: list[Rebuilt] = []

    async def rebuilt() -> bool:
        try:
            found.append(await bus.projections.rebuild("sales", options=EQUAL))
        except ProjectionError as error:
            if error.code != "EB6004":
                raise
        return bool(found)

    await until(rebuilt)
    return found[0].difference.differ


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


def main(where: str, directory: Path, mode: str, first: int, step: int) -> None:
    """Every `step`-th point from `first` on, to the end of the scenario."""
    directory.mkdir(parents=True, exist_ok=True)
    quick_leases()
    global _projection  # noqa: PLW0603 - of all processes that are forked
    if mode == "replay":
        _projection = SalesApplied()
    copies = places(where, directory)
    status = forked(lambda: fill(copies.template, followed=mode != "follow"))
    assert status == 0, status
    if mode == "assist":
        assert forked(lambda: begin(copies.template)) == 0
    acts = {"follow": follow, "rebuild": rebuild, "assist": assist, "replay": rebuild}
    point, killed = first, True
    while killed:
        place, hits = copies.fresh(point), directory / f"{point}.hits"
        status = forked(partial(acts[mode], place, point, hits))
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
