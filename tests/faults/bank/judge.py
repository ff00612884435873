"""K1, K2, K4, K6 over the database at rest and the histories of all processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.bank.observer import Observer
from tests.faults.bank.transfers import GROUPS, TOTAL
from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.ledger import ledger
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.history import Operation, merged, read


def believed(directory: Path) -> list[Operation]:
    """One history of all workers that there ever were."""
    return merged([read(path) for path in sorted(directory.glob("worker-*.jsonl"))])


async def judge(observer: Observer, history: Sequence[Operation]) -> list[Verdict]:
    """All of them; the database must be there."""
    effects = [
        Effect(group=row["grp"], id=row["id"], key=row["key"], seq=row["seq"])
        for row in await _rows(observer, "SELECT grp, id, key, seq FROM effects ORDER BY at")
    ]
    counts = await _rows(observer, "SELECT source, count(*) AS n FROM requests GROUP BY source")
    last = {row["source"]: row["n"] for row in counts}
    tables = await _tables(observer, effects)
    requested = {row["id"] for row in await _rows(observer, "SELECT id FROM requests")}
    return [
        total_queue(history, effects, group="debit"),
        *await _follow_ups(observer, effects),
        *(per_key_order(effects, group=group, last=last) for group in GROUPS),
        ledger(observer.snapshots, total=TOTAL),
        atomicity(tables, transactional=GROUPS),
        _told(history, requested),
        await _at_rest(observer, last),
    ]


async def _follow_ups(observer: Observer, effects: Sequence[Effect]) -> list[Verdict]:
    """What handlers published is acknowledged once its business row stands there."""
    verdicts = []
    for group, kind in (("credit", "Debited"), ("confirm", "Credited")):
        rows = await _rows(observer, "SELECT id FROM follow_ups WHERE type = $1", kind)
        published = [
            Operation(t=0, p="handlers", op=number, f="publish", type="ok", id=row["id"])
            for number, row in enumerate(rows)
        ]
        verdicts.append(total_queue(published, effects, group=group))
    return verdicts


async def _tables(observer: Observer, effects: Sequence[Effect]) -> Tables:
    inbox: dict[str, set[str]] = {}
    for row in await _rows(observer, "SELECT group_name, message::text FROM {schema}.inbox"):
        inbox.setdefault(row["group_name"], set()).add(row["message"])
    parked: dict[str, set[str]] = {}
    for row in await _rows(observer, "SELECT group_name, message_id FROM {schema}.parked"):
        parked.setdefault(row["group_name"], set()).add(row["message_id"])
    outbox = await _rows(observer, "SELECT message_id FROM {schema}.outbox")
    business = await _rows(observer, "SELECT id FROM requests UNION ALL SELECT id FROM follow_ups")
    return Tables(
        effects=effects,
        inbox=inbox,
        parked=parked,
        outbox={row["message_id"] for row in outbox},
        business={row["id"] for row in business},
        relayed={each for ids in inbox.values() for each in ids},
    )


def _told(history: Sequence[Operation], requested: set[str]) -> Verdict:
    """Row 19: what a client was told of its commits is what the database holds."""
    told: dict[str, set[str]] = {"ok": set(), "fail": set(), "info": set()}
    for line in history:
        if line.f == "publish" and line.type in told and line.id:
            told[line.type].add(line.id)
    unknown = told["info"] - told["ok"]
    wrong = [
        *(f"told committed, is not there: {each}" for each in sorted(told["ok"] - requested)),
        *(f"told failed, is there: {each}" for each in sorted(told["fail"] & requested)),
    ]
    return Verdict(
        checker="commits told",
        ok=not wrong,
        figures={
            "committed": len(told["ok"]),
            "failed": len(told["fail"]),
            "unknown, committed": len(unknown & requested),
            "unknown, not": len(unknown - requested),
        },
        counterexample=wrong[:5],
    )


async def _at_rest(observer: Observer, last: dict[str, int]) -> Verdict:
    standing = await observer.standing()
    if standing is None:
        raise RuntimeError("the database is away")
    left = {name: standing[name] for name in ("transit", "outbox", "parked", "parked_keys")}
    return Verdict(
        checker="at rest",
        ok=not any(left.values()) and standing["confirmed"] == sum(last.values()),
        figures={**left, "confirmed": standing["confirmed"], "requests": sum(last.values())},
    )


async def _rows(observer: Observer, query: str, *values: object) -> list[Any]:
    rows = await observer.ask(query, *values)
    if rows is None:
        raise RuntimeError("the database is away")
    return rows
