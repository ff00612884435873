"""A scenario of processes on one SQLite file, killed at a chosen call; the next one goes on.

`python -m tests.faults.crash DIRECTORY FIRST STEP [LAST]` sweeps: for each point a process is forked
that dies there by SIGKILL, another one that finishes the job, and the file is judged. One JSON
line per point. Point 2n is before, 2n+1 after the n-th call of the contracts.
"""

import asyncio
import json
import logging
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from eventbus import Context, DeadLetter, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.memory import MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import FaultPlan, FaultyStorage, FaultyTransport, Kill
from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.history import History, merged, read

KEYS, PER_KEY = 3, 4
LONGEST_SECONDS = 30.0  # of one process; it takes well under one
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS effects (grp TEXT, id TEXT, key TEXT, seq INTEGER)",
    "CREATE TABLE IF NOT EXISTS business (id TEXT, key TEXT, seq INTEGER, kind TEXT)",
    "CREATE TABLE IF NOT EXISTS repaired (at INTEGER)",
)
_RETRY = RetryPolicy(in_place=0, parked=(timedelta(milliseconds=20),) * 4)
LEDGER = Group("ledger", retry=_RETRY, lanes=2, batch_messages=4)
AUDIT = Group("audit", retry=_RETRY, lanes=2, batch_messages=4)


class Step(Event, type="crash.step", key="account"):
    account: str
    seq: int


class Noted(Event, type="noted.noted", key="account"):
    account: str
    seq: int


@subscribe(Step, group=LEDGER)
async def post(event: Step, ctx: Context) -> None:
    """The second of a key fails once, the third of one key is dead until somebody repairs it."""
    await _effect(event, ctx)
    follow_up = await ctx.publish(Noted(account=event.account, seq=event.seq))
    await _business(ctx, follow_up, event.account, event.seq, "noted")
    if (event.account, event.seq) == ("k1", 2) and ctx.attempt == 1:
        raise ValueError("once")
    if (event.account, event.seq) == ("k2", 3) and not await ctx.sql.fetch(
        "SELECT 1 AS one FROM repaired"
    ):
        raise DeadLetter


@subscribe(Noted, group=AUDIT)
async def note(event: Noted, ctx: Context) -> None:
    """An effect."""
    await _effect(event, ctx)


async def _effect(event: Step | Noted, ctx: Context) -> None:
    await ctx.sql.execute(
        "INSERT INTO effects (grp, id, key, seq) VALUES ($1, $2, $3, $4)",
        ctx.group,
        ctx.message.id,
        event.account,
        event.seq,
    )


async def _business(tx: Any, message_id: str, key: str, seq: int, kind: str) -> None:
    await tx.sql.execute(
        "INSERT INTO business (id, key, seq, kind) VALUES ($1, $2, $3, $4)",
        message_id,
        key,
        seq,
        kind,
    )


async def scenario(file: Path, plan: FaultPlan, history: History) -> None:
    """Publish, relay, consume, park, redrive; every step looks first how far an earlier one came."""
    bus = EventBus(
        FaultyTransport(MemoryTransport(), plan),
        storage=FaultyStorage(SqliteStorage(str(file)), plan),
        handlers=[post, note],
        service="crash",
    )
    async with asyncio.timeout(LONGEST_SECONDS), bus:
        async with bus.transaction() as tx:
            for statement in SCHEMA:
                await tx.sql.execute(statement)
        async with asyncio.TaskGroup() as tasks:
            for key in range(KEYS):
                tasks.create_task(_publish(bus, f"k{key}", history), name=f"client:k{key}")
        await _until(file, lambda: _dead(file) or _effects(file, "ledger") == KEYS * PER_KEY)
        if _dead(file):
            async with bus.transaction() as tx:
                await tx.sql.execute("INSERT INTO repaired (at) VALUES ($1)", 1)
            await bus.dead_letters.change("redrive", actor="crash")
        await _until(file, lambda: _effects(file, "audit") == KEYS * PER_KEY)
        await bus.until_idle()


async def _publish(bus: EventBus, key: str, history: History) -> None:
    async with bus.transaction() as tx:
        rows = await tx.sql.fetch(
            "SELECT count(*) AS n FROM business WHERE key = $1 AND kind = 'step'", key
        )
    for seq in range(rows[0]["n"] + 1, PER_KEY + 1):
        op = history.invoke("publish", key=key, seq=seq)
        async with bus.transaction() as tx:
            message_id = await tx.publish(Step(account=key, seq=seq))
            history.note("publish", "invoke", op, key=key, seq=seq, id=message_id)
            await _business(tx, message_id, key, seq, "step")
        history.note("publish", "ok", op, key=key, seq=seq, id=message_id)


async def _until(file: Path, fact: Callable[[], object]) -> None:
    """Asks the file past the bus: what waits here must not count as calls of the contracts."""
    while not fact():  # noqa: ASYNC110 - another process would have to say it
        await asyncio.sleep(0.01)


def _ask(file: Path, query: str, *values: object) -> list[Any]:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _dead(file: Path) -> int:
    return int(_ask(file, "SELECT count(*) FROM eventbus_parked_keys WHERE state = 1")[0][0])


def _effects(file: Path, group: str) -> int:
    return int(_ask(file, "SELECT count(DISTINCT id) FROM effects WHERE grp = ?", group)[0][0])


def judge(directory: Path) -> list[Verdict]:
    """Of a finished job: K1, K2, K6 over its file and the histories of its processes."""
    file = directory / "bus.db"
    history = merged([read(path) for path in sorted(directory.glob("*.jsonl"))])
    effects = [
        Effect(group=row[0], id=row[1], key=row[2], seq=row[3])
        for row in _ask(file, "SELECT grp, id, key, seq FROM effects ORDER BY rowid")
    ]
    inbox: dict[str, set[str]] = {}
    for group, message in _ask(file, "SELECT group_name, message FROM eventbus_inbox"):
        inbox.setdefault(group, set()).add(message)
    parked: dict[str, set[str]] = {}
    for group, message in _ask(file, "SELECT group_name, message FROM eventbus_parked"):
        parked.setdefault(group, set()).add(message)
    outbox = {row[0] for row in _ask(file, "SELECT message_id FROM eventbus_outbox")}
    full = {f"k{key}": PER_KEY for key in range(KEYS)}
    return [
        total_queue(history, effects, group="ledger"),
        *(per_key_order(effects, group=group, last=full) for group in ("ledger", "audit")),
        atomicity(
            Tables(
                effects=effects,
                inbox=inbox,
                parked=parked,
                outbox=outbox,
                business={row[0] for row in _ask(file, "SELECT id FROM business")},
                relayed={each for ids in inbox.values() for each in ids},
            ),
            transactional=["ledger", "audit"],
        ),
        Verdict(checker="at rest", ok=not parked and not outbox),
        Verdict(checker="file", ok=_ask(file, "PRAGMA integrity_check") == [("ok",)]),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a sweep found at one point."""

    number: int
    killed: bool  # False: the scenario has fewer calls
    call: str  # "role:call", where the process died
    points: Sequence[str]  # the named crash points there
    finished: bool
    violations: Sequence[str]
    seconds: float


Work = Callable[[Path, FaultPlan, History], Awaitable[None]]


def in_child(work: Work, directory: Path, name: str, plan: FaultPlan) -> int:
    """Fork a process that works, and wait for it; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        status = _be_child(work, directory, name, plan)
    finally:
        os._exit(status)


def _be_child(work: Work, directory: Path, name: str, plan: FaultPlan) -> int:
    random.seed()
    logging.disable(logging.CRITICAL)
    history = History(name, path=directory / f"{name}.jsonl")

    def kill() -> None:
        hit = plan.hits[-1]
        facts = {"call": f"{hit.role}:{hit.call}", "points": list(hit.points)}
        history.note("fault", "start", 0, value=facts)
        os.kill(os.getpid(), signal.SIGKILL)

    plan.on_kill = kill
    try:
        asyncio.run(_working(work, directory / "bus.db", plan, history))
    except BaseException as error:  # the parent must hear of anything
        (directory / f"{name}.error").write_text(repr(error))
        return 1
    return 0


async def _working(work: Work, file: Path, plan: FaultPlan, history: History) -> None:
    await work(file, plan, history)


def sweep_point(directory: Path, number: int) -> Point:
    """Die at this point, finish in another process, judge."""
    began = time.monotonic()
    directory.mkdir(parents=True)
    plan = FaultPlan().add("*", number // 2 + 1, Kill(after=bool(number % 2)))
    status = in_child(scenario, directory, "killed", plan)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    finished = status == 0 or in_child(scenario, directory, "finisher", FaultPlan()) == 0
    verdicts = judge(directory) if finished else []
    errors = [path.read_text() for path in directory.glob("*.error")]
    facts: Mapping[str, Any] = {}
    for line in read(directory / "killed.jsonl") if killed else ():
        facts = line.value if line.f == "fault" else facts
    return Point(
        number=number,
        killed=killed,
        call=facts.get("call", ""),
        points=facts.get("points", []),
        finished=finished,
        violations=[*(str(verdict) for verdict in verdicts if not verdict.ok), *errors],
        seconds=time.monotonic() - began,
    )


def sweep(directory: Path, first: int, step: int, last: int | None) -> None:
    """Points from the first on, until the scenario ends without a kill; a JSON line each."""
    number = first
    while last is None or number <= last:
        point = sweep_point(directory / str(number), number)
        print(json.dumps(asdict(point)), flush=True)
        if not point.killed:
            return
        number += step


if __name__ == "__main__":
    _where, _first, _step, *_last = sys.argv[1:]
    sweep(Path(_where), int(_first), int(_step), int(_last[0]) if _last else None)
