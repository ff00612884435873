"""K2: first effects of a key come as 1, 2, 3 …; repeats on the wire do not count."""

from collections.abc import Iterable, Mapping

from tests.faults.checkers.verdict import Effect, Verdict

AROUND = 3


def per_key_order(
    effects: Iterable[Effect], *, group: str, last: Mapping[str, int] | None = None
) -> Verdict:
    """Per key of the group the first effects are contiguous from 1.

    Args:
        effects: in the order of their commits.
        group: whose.
        last: by key how far it went, if that is known; None: as far as the effects go.
    """
    firsts: dict[str, list[int]] = {}
    for effect in effects:
        if effect.group == group:
            seqs = firsts.setdefault(effect.key, [])
            if effect.seq not in seqs:
                seqs.append(effect.seq)
    wrong = [_window(key, seqs) for key, seqs in firsts.items() if not _rises(seqs)]
    short = [
        f"{key}: ends at {len(firsts.get(key, ()))} of {end}"
        for key, end in (last or {}).items()
        if len(firsts.get(key, ())) != end
    ]
    return Verdict(
        checker=f"K2 {group}",
        ok=not (wrong or short),
        figures={"keys": len(firsts), "out of order": len(wrong), "short": len(short)},
        counterexample=[*wrong, *short],
    )


def _rises(seqs: list[int]) -> bool:
    return seqs == list(range(1, len(seqs) + 1))


def _window(key: str, seqs: list[int]) -> str:
    place = next(at for at, seq in enumerate(seqs) if seq != at + 1)
    start = max(0, place - AROUND)
    return f"{key}: … {seqs[start : place + AROUND]} …, expected {place + 1} at {seqs[place]}"
