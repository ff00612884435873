"""K4 and K8 over the database at rest, the snapshots on the way, and what the outside remembers."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.faults.bank.observer import Observer
from tests.faults.checkers.automaton import Entry, Story, automaton
from tests.faults.checkers.ledger import ledger
from tests.faults.checkers.verdict import Verdict

DONE = {"hold": 1, "fee": 1, "pay": 1, "note": 1}
UNDOES = {"hold": "release", "fee": "unfee"}
_REST = """
SELECT (SELECT count(*) FROM {schema}.outbox) AS outbox,
       (SELECT count(*) FROM {schema}.parked) AS parked,
       (SELECT count(*) FROM {schema}.saga_stash) AS stashed,
       (SELECT count(*) FROM {schema}.saga_timer) AS timers,
       (SELECT count(*) FROM {schema}.saga_call) AS calls,
       (SELECT count(*) FROM requests) AS requests"""

_RECEIVED = "SELECT group_name, count(*) AS n FROM {schema}.inbox GROUP BY group_name"


async def judge(observer: Observer, outside: Path) -> list[Verdict]:
    """All of them; the database must be there."""
    stories = await _stories(observer)
    rest = dict((await _rows(observer, _REST))[0])
    requests = rest.pop("requests")
    left = {name: count for name, count in rest.items() if count}
    if len(stories) != requests:  # were the others handled, or never read?
        rows = await _rows(observer, _RECEIVED)
        left |= {f"received by {row['group_name']}": row["n"] for row in rows}
    return [
        ledger(observer.snapshots, total=0),
        automaton(stories, done=DONE, undoes=UNDOES),
        Verdict(
            checker="rest",
            ok=not left and len(stories) == requests,
            figures={"requests": requests, "sagas": len(stories), **left},
        ),
        keys(_lines(outside)),
    ]


def _lines(file: Path) -> Sequence[str]:
    return file.read_text(encoding="utf-8").splitlines()


def keys(lines: Sequence[str]) -> Verdict:
    """Row 60: who is asked again is asked under the same key."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        number, key, _, _ = line.split()
        found[number].add(key)
    wrong = {number: sorted(known) for number, known in found.items() if len(known) > 1}
    return Verdict(
        checker="row 60",
        ok=not wrong,
        figures={"asked": len(lines), "transfers": len(found), "again": len(lines) - len(found)},
        counterexample=list(wrong.items())[:5],
    )


async def _stories(observer: Observer) -> list[Story]:
    sagas = await _rows(
        observer, "SELECT saga_id, business_key, version, status FROM {schema}.saga"
    )
    journal: defaultdict[Any, list[Entry]] = defaultdict(list)
    for row in await _rows(observer, "SELECT * FROM {schema}.saga_journal ORDER BY version"):
        journal[row["saga_id"]].append(_entry(row))
    undone: defaultdict[Any, list[int]] = defaultdict(list)
    for row in await _rows(
        observer,
        "SELECT saga_id, seq FROM {schema}.saga_step WHERE phase = 'undo'"
        " AND status <> 'ready' ORDER BY started_at, seq DESC",
    ):
        undone[row["saga_id"]].append(row["seq"])
    effects: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in await _rows(
        observer, "SELECT transfer, kind, count(*) / 2 AS n FROM entries GROUP BY transfer, kind"
    ):
        effects[row["transfer"]][row["kind"]] = row["n"]
    return [
        Story(
            key=row["business_key"],
            version=row["version"],
            status=row["status"],
            journal=journal[row["saga_id"]],
            undone=undone[row["saga_id"]],
            effects=dict(effects[row["business_key"]]),
        )
        for row in sagas
    ]


def _entry(row: Mapping[str, Any]) -> Entry:
    detail = orjson.loads(row["detail"])
    ignored = detail.get("ignored")
    return Entry(
        version=row["version"],
        kind=row["input_kind"],
        was=row["from_status"],
        to=row["to_status"],
        ignored=ignored,
        fence=None if ignored else detail["input"].get("fence"),
    )


async def _rows(observer: Observer, query: str) -> Sequence[Any]:
    rows = await observer.ask(query)
    assert rows is not None, "the database is away"
    return rows
