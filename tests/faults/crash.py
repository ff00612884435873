"""A scenario of processes on one SQLite file, killed at a chosen call; the next one goes on.

`python -m tests.faults.crash DIRECTORY FIRST STEP [LAST]` sweeps: for each point a process is
forked that dies there by SIGKILL, another one that finishes the job, and the file is judged. One
JSON line per point. Point 2n is before, 2n+1 after the n-th call of the contracts. `DIRECTORY
named` does the same at the named crash points, in the process after one that died already.
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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from eventbus import Context, DeadLetter, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.memory import MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import POINTS, FaultPlan, FaultyStorage, FaultyTransport, Kill
from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.coverage import SWEPT_APART, WITHOUT_STORAGE
from tests.faults.history import History, merged, read

KEYS, PER_KEY = 3, 4
ALL = KEYS * PER_KEY
MOST_KILLS = 8
LONGEST_SECONDS = 30.0  # of one process; it takes well under one
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS effects (grp TEXT, id TEXT, key TEXT, seq INTEGER)",
    "CREATE TABLE IF NOT EXISTS business (id TEXT, key TEXT, seq INTEGER, kind TEXT)",
    "CREATE TABLE IF NOT EXISTS repaired (at INTEGER)",
    "CREATE TABLE IF NOT EXISTS attempts_seen (key TEXT, seq INTEGER, attempts INTEGER)",
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
    if (event.account, event.seq) == DEADLY and _deadly and not await _is_repaired(ctx):
        os.kill(os.getpid(), signal.SIGKILL)
    await _effect(event, ctx)
    follow_up = await ctx.publish(Noted(account=event.account, seq=event.seq))
    await _business(ctx, follow_up, event.account, event.seq, "noted")
    if (event.account, event.seq) == ("k1", 2) and ctx.attempt == 1:
        raise ValueError("once")
    if (event.account, event.seq) == ("k2", 3) and not await _is_repaired(ctx):
        raise DeadLetter


DEADLY = ("k0", 2)
_deadly = False  # row 39: its handler kills the process


async def _is_repaired(ctx: Context) -> bool:
    return bool(await ctx.sql.fetch("SELECT 1 AS one FROM repaired"))


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
    """Publish, relay, consume, park, redrive; each step looks how far an earlier process came."""
    bus = EventBus(
        FaultyTransport(MemoryTransport(), plan),
        storage=FaultyStorage(SqliteStorage(str(file), now=_now), plan),
        handlers=[post, note],
        service="crash",
    )
    async with asyncio.timeout(LONGEST_SECONDS), bus:
        async with bus.transaction() as tx:
            for statement in SCHEMA:
                await tx.sql.execute(statement)
        async with asyncio.TaskGroup() as tasks:
            for key in range(KEYS):
                tasks.create_task(publish(bus, f"k{key}", history), name=f"client:k{key}")
        enough = 2 if _deadly else 1
        await _until(lambda: _dead(file) == enough or _effects(file, "ledger") == ALL)
        if _dead(file):
            await repair(bus)
            await bus.dead_letters.change("redrive", actor="crash")
        await _until(lambda: _effects(file, "audit") == ALL)
        await bus.until_idle()


async def repair(bus: EventBus) -> None:
    """What made a message a dead letter is put right."""
    letters = await bus.dead_letters.list()
    async with bus.transaction() as tx:
        await tx.sql.execute("INSERT INTO repaired (at) VALUES ($1)", 1)
        for letter in letters:
            event = Step.model_validate_json(letter["payload"])
            await tx.sql.execute(
                "INSERT INTO attempts_seen (key, seq, attempts) VALUES ($1, $2, $3)",
                event.account,
                event.seq,
                letter["attempts"],
            )


def _now() -> float:
    return time.time() + _ahead_seconds


_ahead_seconds = 0.0  # of this process's clock: the leases of the dead have run out for the next


async def publish(bus: EventBus, key: str, history: History) -> None:
    """The steps of a key that are not there yet, each with its business row."""
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


async def _until(fact: Callable[[], object]) -> None:
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
    calls: Sequence[str]  # "role:call", where processes died
    points: Sequence[str]  # the named crash points there
    finished: bool
    violations: Sequence[str]
    seconds: float


Work = Callable[[Path, FaultPlan, History], Awaitable[None]]


def in_child(work: Work, directory: Path, name: str, plan: FaultPlan) -> int:
    """Fork a process that works, and wait for it; its wait status."""
    global _ahead_seconds  # noqa: PLW0603 - the forked process has its own
    _ahead_seconds += 11.0
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


def died(status: int) -> bool:
    """Whether a wait status says SIGKILL."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def killed_and_finished(directory: Path, number: int, *plans: FaultPlan) -> Point:
    """One process after the other dies by its plan, the last one finishes; then judge."""
    began = time.monotonic()
    directory.mkdir(parents=True)
    statuses = [
        in_child(scenario, directory, f"killed-{place}", plan) for place, plan in enumerate(plans)
    ]
    finished = in_child(scenario, directory, "last", FaultPlan()) == 0
    verdicts = judge(directory) if finished else []
    errors = [path.read_text() for path in directory.glob("*.error")]
    hits = [line for path in directory.glob("*.jsonl") for line in read(path) if line.f == "fault"]
    return Point(
        number=number,
        killed=died(statuses[-1]),
        calls=[line.value["call"] for line in hits],
        points=[point for line in hits for point in line.value["points"]],
        finished=finished,
        violations=[*(str(verdict) for verdict in verdicts if not verdict.ok), *errors],
        seconds=time.monotonic() - began,
    )


def sweep_point(directory: Path, number: int) -> Point:
    """Die at this point, finish in another process, judge."""
    plan = FaultPlan().add("*", number // 2 + 1, Kill(after=bool(number % 2)))
    return killed_and_finished(directory, number, plan)


def named_point(directory: Path, number: int, point: str) -> Point:
    """Die at a named point, in the second process after one that died with messages in hand."""
    return killed_and_finished(
        directory,
        number,
        FaultPlan.at("consumer.received", 1, Kill()),
        FaultPlan.at(point, 1, Kill()),
    )


def deadly_handler(directory: Path) -> tuple[int, int, list[Verdict]]:
    """Row 39: how many processes it killed, its attempts as a dead letter, and what is left."""
    global _deadly  # noqa: PLW0603 - for the processes forked from here on
    _deadly = True
    kills = 0
    while died(status := in_child(scenario, directory, f"life-{kills}", FaultPlan())):
        kills += 1
        if kills > MOST_KILLS:
            raise RuntimeError(f"it killed {kills} processes, and is no dead letter yet")
    if status:
        raise RuntimeError((directory / f"life-{kills}.error").read_text())
    key, seq = DEADLY
    query = "SELECT attempts FROM attempts_seen WHERE key = ? AND seq = ?"
    return kills, int(_ask(directory / "bus.db", query, key, seq)[0][0]), judge(directory)


def sweep_named(directory: Path) -> None:
    """The named points, a JSON line each."""
    for number, point in enumerate(sorted(REACHED)):
        print(json.dumps(asdict(named_point(directory / point, number, point))), flush=True)


REACHED = frozenset(POINTS) - WITHOUT_STORAGE - SWEPT_APART
"""The crash points that the scenario passes."""


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
    _where, *_numbers = sys.argv[1:]
    if _numbers == ["named"]:
        sweep_named(Path(_where))
    else:
        _first, _step, *_last = map(int, _numbers)
        sweep(Path(_where), _first, _step, _last[0] if _last else None)
