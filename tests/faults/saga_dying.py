"""Sagas in one database, killed at a chosen call; the next process goes on.

`python -m tests.faults.saga_dying DIRECTORY ROLE FIRST STEP [URL]` sweeps, on files or, with the
URL of a PostgreSQL server, on one point in a schema of its own: for each point a process is
forked that dies there by SIGKILL, another one that finishes and judges: every saga has ended, what
was done stands or is undone, each effect was there once. One JSON line per point. Point 2n is
before, 2n+1 after the n-th call of the storage's contract by tasks of that role.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eventbus import (
    Command,
    Context,
    Event,
    EventBus,
    Reject,
    Rejection,
    Reply,
    Undone,
    UnitOfWork,
    handles,
    undoes,
)
from eventbus.saga import (
    CallContext,
    Saga,
    call_step,
    calls,
    local_step,
    starts_on,
    step,
    wait_step,
)
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage, open_storage
from eventbus.testing.faults import FaultPlan, FaultyStorage, Kill
from tests.faults.projecting import forked

ENDS = {"good": "completed", "bad": "compensated"}
DONE = {"reserve": 1, "note": 1, "ship": 1}
UNDONE = {"reserve": 0, "note": 0}

_log: Path | None = None  # what calls did outside
_url: str | None = None  # of the server, with the schema


class Placed(Event, type="shop.placed", key="order_id"):
    order_id: str


class Reserved(Reply, type="stock.reserved"):
    place: str


class Reserve(Command[Reserved], type="stock.reserve", key="order_id"):
    order_id: str


class Release(Command[Undone], type="stock.release", key="order_id"):
    order_id: str


class Shipped(Reply, type="shipping.shipped"):
    pass


class NoShip(Rejection, type="shipping.no-ship"):
    pass


class Ship(Command[Shipped], type="shipping.ship", key="order_id", rejects=(NoShip,)):
    order_id: str


class Priced(Reply, type="prices.priced"):
    cents: int


class State(BaseModel):
    order_id: str
    cents: int = 0


class Order(Saga[State], name="order", step_timeout=timedelta(minutes=5)):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order_id=event.order_id)

    @step
    def reserve(self, s: State) -> Reserve:
        return Reserve(order_id=s.order_id)

    @reserve.undo
    def release(self, s: State, reply: Reserved | None) -> Release:
        return Release(order_id=s.order_id)

    @local_step
    async def note(self, s: State, tx: UnitOfWork) -> None:
        await _write(tx, s.order_id, "note", 1)

    @note.undo
    async def unnote(self, s: State, tx: UnitOfWork) -> None:
        await _write(tx, s.order_id, "note", -1)

    @call_step(no_undo="a price is only asked for")
    async def price(self, s: State, call: CallContext) -> Priced:
        _append(f"{s.order_id} {call.effect_id}\n")
        return Priced(cents=42)

    @price.reply
    def priced(self, s: State, reply: Priced) -> None:
        s.cents = reply.cents

    @wait_step(delay=timedelta(milliseconds=20))
    def rested(self, s: State) -> None: ...

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: State) -> Ship:
        return Ship(order_id=s.order_id)


@handles(Reserve, group="stock")
async def reserve(command: Reserve, ctx: Context) -> Reserved:
    await _write(ctx, command.order_id, "reserve", 1)
    return Reserved(place="1")


@undoes(reserve, Release)
async def release(command: Release, done: Reserved, ctx: Context) -> None:
    await _write(ctx, command.order_id, "reserve", -1)


@handles(Ship, group="shipping")
async def ship(command: Ship, ctx: Context) -> Shipped:
    if command.order_id == "bad":
        raise Reject(NoShip())
    await _write(ctx, command.order_id, "ship", 1)
    return Shipped()


async def _write(tx: UnitOfWork, order_id: str, what: str, change: int) -> None:
    query = f"INSERT INTO {_effects()} (order_id, step, change) VALUES ($1, $2, $3)"
    await tx.sql.execute(query, order_id, what, change)


def _append(line: str) -> None:
    if _log is not None:
        with _log.open("a", encoding="utf-8") as file:
            file.write(line)


def bus_on(path: Path, plan: FaultPlan | None = None) -> EventBus:
    """A bus whose storage meets a plan; calls log beside the file."""
    global _log  # noqa: PLW0603 - the outside
    _log = path.with_suffix(".log")
    calls.LEASE = timedelta(milliseconds=300)
    storage: Storage = SqliteStorage(str(path)) if _url is None else open_storage(_url, "dying")
    given = storage if plan is None else FaultyStorage(storage, plan)
    return EventBus("memory://", storage=given, handlers=[Order, reserve, release, ship])


async def fill(path: Path) -> None:
    """Both orders wait in the outbox."""
    bus = bus_on(path)
    await bus.upgrade()
    async with bus.client():
        async with bus.transaction() as tx:
            await tx.sql.execute(
                f"CREATE TABLE {_effects()} (order_id text, step text, change integer)"
            )
        for order in ENDS:
            await bus.publish(Placed(order_id=order))


async def live(path: Path, role: str, point: int) -> None:
    """To the end of both sagas, unless killed."""
    number, after = divmod(point, 2)
    plan = FaultPlan().add(f"{role}:*", number + 1, Kill(after=bool(after)))
    plan.on_kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    async with bus_on(path, plan) as bus:
        await ended(bus)


async def ended(bus: EventBus) -> dict[str, str]:
    """The statuses, once no saga is open, or after a while."""
    found: dict[str, str] = {}
    for _ in range(800):  # at most as long as leases of the dead one
        with suppress(TimeoutError):  # leases of the dead one
            await bus.until_idle(at_most=timedelta(seconds=1))
        found = {one.key: one.status for one in await bus.sagas.list()}
        if found == ENDS:
            break
        await asyncio.sleep(0.025)
    await bus.until_idle()
    return found


async def judge(path: Path) -> dict[str, Any]:
    """Finish; what is wrong then."""
    async with bus_on(path) as bus:
        found = await ended(bus)
        wrong = [] if found == ENDS else [f"{found} instead of {ENDS}"]
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch(f"SELECT order_id, step, change FROM {_effects()}")
            stash = "eventbus_saga_stash" if _url is None else f"{_schema(_url)}.saga_stash"
            stashed = await tx.sql.fetch(f"SELECT 1 FROM {stash}")
        sums: Counter[tuple[str, str]] = Counter()
        for row in rows:
            sums[row["order_id"], row["step"]] += row["change"]
        for order, expected in (("good", DONE), ("bad", UNDONE)):
            told = {name: total for (key, name), total in sums.items() if key == order}
            wrong += [] if told == expected else [f"{order}: {told} instead of {expected}"]
        if len(rows) != len({(r["order_id"], r["step"], r["change"]) for r in rows}):
            wrong.append("an effect was there twice")
        wrong += [f"an input waits: {row}" for row in stashed]
        wrong += [f"{row['id']} is parked" for row in await bus.parked.list()]
    lines = path.with_suffix(".log").read_text(encoding="utf-8").splitlines()
    if len(set(lines)) != len(ENDS):
        wrong.append(f"calls under other effect ids: {lines}")
    return {"wrong": wrong, "calls": len(lines)}


def _schema(url: str) -> str:
    return url.rpartition("=")[2]


def _effects() -> str:
    """The table of what was done: on a server that others have as well, of one name each."""
    return "effects" if _url is None else f"effects_{_schema(_url)}"


def at_one_point(directory: Path, role: str, point: int) -> None:
    """On PostgreSQL: a database of its own for each process that looks at it."""
    path = directory / f"{point}.db"
    out = directory / f"{point}.json"
    assert forked(partial(fill, path), out) == 0, out.read_text(encoding="utf-8")
    status = forked(partial(live, path, role, point))
    forked(partial(judge, path), out)
    told = {"point": point, "killed": os.WIFSIGNALED(status)}
    print(json.dumps(told | json.loads(out.read_text(encoding="utf-8"))), flush=True)


def main(directory: Path, role: str, first: int, step: int) -> None:
    """Every `step`-th point from `first` on, to the end of the scenario."""
    directory.mkdir(parents=True, exist_ok=True)
    template = directory / "template.db"
    status = forked(partial(fill, template))
    assert status == 0, status
    point, killed = first, True
    while killed:
        path = directory / f"{point}.db"
        for name in ("", "-wal"):
            if (there := directory / f"template.db{name}").exists():
                shutil.copy(there, f"{path}{name}")
        status = forked(partial(live, path, role, point))
        killed = os.WIFSIGNALED(status)
        out = directory / f"{point}.json"
        forked(partial(judge, path), out)
        verdict = json.loads(out.read_text(encoding="utf-8"))
        told = {"point": point, "killed": killed, "failed": not killed and status != 0}
        print(json.dumps(told | verdict), flush=True)
        point += step


if __name__ == "__main__":
    if len(sys.argv) > 5:
        _url = sys.argv[5]
        at_one_point(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
