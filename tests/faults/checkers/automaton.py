"""K8: each saga goes through its journal as the rules say, to an end, with each effect once."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.checkers.verdict import Verdict

SHOWN = 5
ENDS = frozenset({"completed", "compensated"})
_OPEN = frozenset({"running", "resolving", "compensating", "stuck"})
GRAPH: Mapping[str | None, frozenset[str]] = {  # `sagas.md` §4; an input may change nothing
    None: frozenset({*_OPEN, *ENDS}),
    "running": frozenset({*_OPEN, *ENDS}),
    "resolving": frozenset({"running", "compensating", "stuck", *ENDS}),
    "compensating": frozenset({"compensated", "stuck"}),
    "stuck": frozenset({"running", "resolving", "compensating", *ENDS}),
    "completed": frozenset(),  # without a pivot a person may undo it; here nobody does
    "compensated": frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the journal."""

    version: int
    kind: str
    was: str | None
    to: str
    ignored: str | None = None
    fence: int | None = None  # of a call's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One saga, whole."""

    key: str
    version: int
    status: str
    journal: Sequence[Entry]
    undone: Sequence[int]  # `seq` of its undos, in the order in which they began
    effects: Mapping[str, int]  # how often each was there, by kind


def automaton(
    stories: Sequence[Story], *, done: Mapping[str, int], undoes: Mapping[str, str]
) -> Verdict:
    """Every saga of them.

    Args:
        stories: all sagas that were begun.
        done: effects that a completed saga has, and how often; a compensated one has none that its
            undo did not take back.
        undoes: the effect that takes back each of those that can be.
    """
    wrong = [f"{one.key}: {what}" for one in stories for what in _wrong(one, done, undoes)]
    statuses = Counter(one.status for one in stories)
    entries = Counter(entry.kind for one in stories for entry in one.journal)
    ignored = Counter(entry.ignored for one in stories for entry in one.journal if entry.ignored)
    return Verdict(
        checker="K8",
        ok=not wrong,
        figures={
            "sagas": len(stories),
            **statuses,
            **{f"inputs {name}": count for name, count in entries.items()},
            **{f"ignored {name}": count for name, count in ignored.items()},
            "violations": len(wrong),
        },
        counterexample=wrong[:SHOWN],
    )


def _wrong(one: Story, done: Mapping[str, int], undoes: Mapping[str, str]) -> Iterator[str]:
    yield from _journal(one)
    if one.status not in ENDS:
        yield f"it is {one.status}"
    if list(one.undone) != sorted(one.undone, reverse=True):
        yield f"undone in the order {list(one.undone)}"
    for kind, count in one.effects.items():
        if count > 1:
            yield f"{kind} took effect {count} times"
    if one.status == "completed" and one.effects != done:
        yield f"it is completed, and took effect as {dict(one.effects)}"
    if one.status == "compensated":
        for kind in done:
            there, back = one.effects.get(kind, 0), one.effects.get(undoes.get(kind, ""), 0)
            if there != back:
                yield f"it is compensated, and {kind} took effect {there}, was undone {back} times"


def _journal(one: Story) -> Iterator[str]:
    versions = [entry.version for entry in one.journal]
    if versions != list(range(1, one.version + 1)):
        yield f"its journal has the versions {versions}, it is at {one.version}"
    at: str | None = None
    for entry in one.journal:
        if entry.was != at:
            yield f"version {entry.version} begins at {entry.was}, the one before ended at {at}"
        if entry.to != entry.was and entry.to not in GRAPH[entry.was]:
            yield f"version {entry.version} leads from {entry.was} to {entry.to}"
        at = entry.to
    if at != one.status:
        yield f"its journal ends at {at}, it is {one.status}"
    fences = [entry.fence for entry in one.journal if entry.fence is not None]
    if fences != sorted(set(fences)):
        yield f"ends of calls under the fences {fences}"
