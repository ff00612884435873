"""K1: every acknowledged message has its effect, once, and nothing else has."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.history import Operation

SHOWN = 5


def total_queue(
    history: Iterable[Operation],
    effects: Iterable[Effect],
    *,
    group: str,
    unhandled: Collection[str] = (),
    foreign: Collection[str] = (),
) -> Verdict:
    """lost = acknowledged - effected, duplicate = effected more than once, unexpected = the rest.

    Repeated: one (key, seq) took effect under several ids, so somebody published it anew.

    Args:
        history: operations `publish`; an acknowledged one has type `ok`.
        effects: of all groups.
        group: whose effects count.
        unhandled: ids that lie parked or dead-lettered with their cause: not lost.
        foreign: ids that somebody else than the history's processes published.
    """
    publishes = [line for line in history if line.f == "publish"]
    attempted = {line.id for line in publishes if line.id} | set(foreign)
    acked = {line.id for line in publishes if line.type == "ok"}
    failed = {line.id for line in publishes if line.type == "fail"}
    unknown = {line.id for line in publishes if line.type == "info"} - acked
    own = [effect for effect in effects if effect.group == group]
    counts = Counter(effect.id for effect in own)
    lost = sorted(acked - counts.keys() - set(unhandled))
    duplicate = sorted(each for each, count in counts.items() if count > 1)
    repeated = sorted(f"{key}/{seq}" for (key, seq), count in _ids_of(own).items() if count > 1)
    unexpected = sorted((counts.keys() - attempted) | (counts.keys() & failed))
    return Verdict(
        checker=f"K1 {group}",
        ok=not (lost or duplicate or unexpected or repeated),
        figures={
            "attempted": len(attempted),
            "acknowledged": len(acked),
            "effected": len(counts),
            "lost": len(lost),
            "duplicate": len(duplicate),
            "unexpected": len(unexpected),
            "repeated": len(repeated),
            "recovered": len(unknown & counts.keys()),
        },
        counterexample=[
            *_shown("lost", lost, publishes),
            *_shown("duplicate", duplicate, publishes),
            *_shown("unexpected", unexpected, publishes),
            *(f"under several ids: {each}" for each in repeated[:SHOWN]),
        ],
    )


def _shown(what: str, ids: Sequence[str], publishes: Sequence[Operation]) -> list[str]:
    by_id = {line.id: line for line in publishes}
    return [f"{what}: {by_id.get(each, each)}" for each in ids[:SHOWN]]


def _ids_of(effects: Iterable[Effect]) -> Counter[tuple[str, int]]:
    return Counter((key, seq) for key, seq, _ in {(e.key, e.seq, e.id) for e in effects})
