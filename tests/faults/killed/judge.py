"""K1, K2, K6 of a finished job, over its database and the histories of its processes."""

from collections.abc import Sequence
from pathlib import Path

from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.crash import KEYS, PER_KEY
from tests.faults.history import Operation, merged, read
from tests.faults.killed.ground import SCHEMA, Look, looking, storage_at

GROUPS = ("ledger", "audit")


def believed(directory: Path) -> list[Operation]:
    """One history of all processes."""
    return merged([read(path) for path in sorted(directory.glob("*.jsonl"))])


async def judge(url: str, history: Sequence[Operation]) -> list[str]:
    """What does not hold."""
    async with looking(url) as look:
        effects = [
            Effect(group=row["grp"], id=row["id"], key=row["key"], seq=row["seq"])
            for row in await look.rows("SELECT grp, id, key, seq FROM effects ORDER BY at")
        ]
        tables = await _tables(look, effects)
    full = {f"k{key}": PER_KEY for key in range(KEYS)}
    verdicts = [
        total_queue(history, effects, group="ledger"),
        *(per_key_order(effects, group=group, last=full) for group in GROUPS),
        atomicity(tables, transactional=GROUPS),
        Verdict(checker="at rest", ok=not tables.parked and not tables.outbox),
    ]
    async with storage_at(url) as storage:  # what `eventbus verify` says of it
        found = await storage.inspection.verify()
    wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
    return [*wrong, *(f"{finding.code} {finding.what}" for finding in found)]


async def _tables(look: Look, effects: list[Effect]) -> Tables:
    inbox: dict[str, set[str]] = {}
    for row in await look.rows(f"SELECT group_name, message::text FROM {SCHEMA}.inbox"):
        inbox.setdefault(row["group_name"], set()).add(row["message"])
    parked: dict[str, set[str]] = {}
    for row in await look.rows(f"SELECT group_name, message_id FROM {SCHEMA}.parked"):
        parked.setdefault(row["group_name"], set()).add(row["message_id"])
    outbox = await look.rows(f"SELECT message_id FROM {SCHEMA}.outbox")
    business = await look.rows("SELECT id FROM business")
    return Tables(
        effects=effects,
        inbox=inbox,
        parked=parked,
        outbox={row["message_id"] for row in outbox},
        business={row["id"] for row in business},
        relayed={each for ids in inbox.values() for each in ids},
    )
