"""What is left, as K1, K2 and K6 see it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.history import merged
from tests.faults.simulated.world import World


async def judge(world: World) -> list[Verdict]:
    scenario = world.scenario
    async with world.storage.transaction() as tx:
        rows = await tx.sql.fetch("SELECT grp, id, key, seq FROM effects ORDER BY rowid")
        business = await tx.sql.fetch("SELECT id, kind FROM business")
        recorded = await tx.sql.fetch("SELECT group_name, message FROM eventbus_inbox")
        parked = await tx.sql.fetch("SELECT group_name, message_id FROM eventbus_parked")
        outbox = await tx.sql.fetch("SELECT message_id FROM eventbus_outbox")
    effects = [
        Effect(group=row["grp"], id=row["id"], key=row["key"], seq=row["seq"]) for row in rows
    ]
    history = merged([world.history.operations])
    groups = ["ledger", *([scenario.third] if scenario.third == "loose" else [])]
    foreign = {
        message.id  # of a `bus.publish` whose process died in it: nobody heard the id
        for message in world.published.messages
        if message.type == "sim.step" and not (message.key or "").startswith("k")
    }
    full = {f"k{key}": scenario.per_key for key in range(scenario.keys)}
    noted = {row["id"] for row in business if row["kind"] == "noted"}
    audited = Counter(effect.id for effect in effects if effect.group == "audit")
    queues = [total_queue(history, effects, group=group, foreign=foreign) for group in groups]
    world.marks["recovered"] += queues[0].figures["recovered"]
    verdicts = [
        *queues,
        per_key_order([e for e in effects if e.key in full], group="ledger", last=full),
        per_key_order(effects, group="ledger"),
        per_key_order(effects, group="audit"),
        atomicity(
            Tables(
                effects=effects,
                inbox=_without(world, _by_group(recorded, "message")),
                parked=_by_group(parked, "message_id"),
                outbox={row["message_id"] for row in outbox},
                business={row["id"] for row in business},
                relayed={message.id for message in world.published.messages},
            ),
            transactional=[*groups, "audit"],
        ),
        Verdict(
            checker="K1 audit",
            ok=dict(audited) == dict.fromkeys(noted, 1),
            figures={"noted": len(noted), "audited": audited.total()},
        ),
        Verdict(checker="at rest", ok=not parked and not outbox, figures={"parked": len(parked)}),
        Verdict(
            checker="outage",
            ok=world.dead_in_outage == 0,
            figures={"dead letters": world.dead_in_outage},
        ),
        Verdict(
            checker="quarantine",
            ok={("ledger", each) for each in world.garbage} <= set(world.quarantined),
            figures={"garbage": len(world.garbage), "quarantined": len(world.quarantined)},
        ),
    ]
    if scenario.third == "outside":
        verdicts += _outside(world, {line.id for line in history if line.type == "ok"})
    return verdicts


def _outside(world: World, acked: Collection[str]) -> list[Verdict]:
    done = {effect.id for effect in world.outside}
    lost = sorted(set(acked) - done)
    return [
        Verdict(checker="L outside", ok=not lost, counterexample=lost, figures={"lost": len(lost)}),
        per_key_order(world.outside, group="outside"),
    ]


def _by_group(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["group_name"], set()).add(row[column])
    return found


def _without(world: World, inbox: dict[str, set[str]]) -> dict[str, set[str]]:
    """Inbox rows of what was discarded: they have no effect, and none is due."""
    gone = {message_id for _, message_id in world.quarantined}
    return {group: ids - gone for group, ids in inbox.items()}
