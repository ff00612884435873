"""K6: business row, outbox row, inbox row: all of a transaction or nothing of it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tests.faults.checkers.verdict import Effect, Verdict

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What stands in the database once everything came to rest."""

    effects: Collection[Effect]
    inbox: Mapping[str, Collection[str]]  # by group the identities that it recorded
    parked: Mapping[str, Collection[str]]  # by group the ids that wait or are dead
    outbox: Collection[str]  # ids that wait for the broker
    business: Collection[str]  # ids of the messages whose business row was written with them
    relayed: Collection[str]  # ids that reached the broker


def atomicity(tables: Tables, *, transactional: Collection[str]) -> Verdict:
    """Anti-joins both ways, over the groups whose effect commits with their inbox row."""
    wrong: list[str] = []
    for group in transactional:
        effected = {effect.id for effect in tables.effects if effect.group == group}
        recorded = set(tables.inbox.get(group, ()))
        waiting = set(tables.parked.get(group, ()))
        wrong += _each(f"{group}: effect without inbox row", effected - recorded)
        wrong += _each(f"{group}: inbox row without effect", recorded - effected - waiting)
        wrong += _each(f"{group}: effect of what is parked", effected & waiting)
    known = set(tables.relayed) | set(tables.outbox)
    wrong += _each("business row without its message", set(tables.business) - known)
    return Verdict(
        checker="K6",
        ok=not wrong,
        figures={"effects": len(tables.effects), "violations": len(wrong)},
        counterexample=wrong,
    )


def _each(what: str, ids: Iterable[str]) -> list[str]:
    return [f"{what}: {each}" for each in sorted(ids)[:SHOWN]]
