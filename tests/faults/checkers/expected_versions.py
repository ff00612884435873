"""K5: appends with an expected version are linearizable, each stream for itself.

An append that succeeded has its place in the stream; the places, and when it was asked for and
answered, bound the moment at which it happened. O(n log n): no search is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.checkers.verdict import Verdict
from tests.faults.history import Operation

SHOWN = 5
NEVER = 1 << 62


@dataclass(slots=True)
class Asked:
    """An append, from when it was asked for to when it was answered."""

    begun: Operation
    ended: Operation

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.begun.value["ids"])

    @property
    def expected(self) -> int | str:
        expected: int | str = self.begun.value["expected"]
        return expected


@dataclass(slots=True)
class _Placed:
    asked: Asked
    first: int  # version of its first event
    earliest: int = 0
    latest: int = NEVER


def expected_versions(
    history: Iterable[Operation], streams: Mapping[str, Sequence[str]]
) -> Verdict:
    """Every success stands in its stream once, where it was expected; every conflict was one.

    Args:
        history: operations `append`: `key` the stream, `value` `ids` and `expected`; an `ok` says
            the `version` it came to, a `fail` the one that was found. `info` perhaps happened.
        streams: the ids that stand there in the end, in the order of versions.
    """
    wrong: list[str] = []
    figures = {"appends": 0, "ok": 0, "conflicts": 0, "unknown": 0, "streams": len(streams)}
    for stream, asked in _by_stream(history).items():
        ids = streams.get(stream, ())
        placed = _placed(stream, asked, ids, wrong)
        _bound(stream, placed, wrong)
        _judge_conflicts(stream, asked, placed, wrong)
        figures["appends"] += len(asked)
        figures["ok"] += sum(each.ended.type == "ok" for each in asked)
        figures["conflicts"] += sum(_is_conflict(each) for each in asked)
        figures["unknown"] += sum(each.ended.type == "info" for each in asked)
    figures["wrong"] = len(wrong)
    return Verdict(checker="K5", ok=not wrong, figures=figures, counterexample=wrong[:SHOWN])


def _by_stream(history: Iterable[Operation]) -> dict[str, list[Asked]]:
    begun: dict[tuple[str, int], Operation] = {}
    found: dict[str, list[Asked]] = {}
    for line in history:
        if line.f != "append":
            continue
        if line.type == "invoke":
            begun[line.p, line.op] = line
        else:
            asked = Asked(begun[line.p, line.op], line)
            found.setdefault(line.key, []).append(asked)
    return found


def _placed(
    stream: str, asked: Sequence[Asked], ids: Sequence[str], wrong: list[str]
) -> list[_Placed]:
    """Where each one stands, in the order of versions; whole, once, and only if it may."""
    places: dict[str, list[int]] = {}
    for version, name in enumerate(ids, 1):
        places.setdefault(name, []).append(version)
    wrong += [f"{stream}: {name} stands at {found}" for name, found in places.items() if found[1:]]
    placed, known = list[_Placed](), 0
    for each in asked:
        found = [places[name][0] for name in each.ids if name in places]
        if each.ended.type == "fail" or (each.ended.type == "info" and not found):
            if found:
                wrong.append(f"{stream}: it failed, and stands at {found}: {each.ended}")
            continue
        if not found or found != list(range(found[0], found[0] + len(each.ids))):
            wrong.append(f"{stream}: not whole, {found}: {each.ended}")
            continue
        known += len(found)
        placed.append(_Placed(each, found[0]))
        if isinstance(each.expected, int) and each.expected != found[0] - 1:
            wrong.append(f"{stream}: stands at {found[0]}: {each.begun}")
        if each.ended.type == "ok" and each.ended.value["version"] != found[-1]:
            wrong.append(f"{stream}: was told another version than {found[-1]}: {each.ended}")
    if known != len(ids):
        wrong.append(f"{stream}: {len(ids)} events, appended were {known}")
    return sorted(placed, key=lambda one: one.first)


def _bound(stream: str, placed: Sequence[_Placed], wrong: list[str]) -> None:
    """The moments between which each one happened."""
    after = 0
    for one in placed:
        after = one.earliest = max(after, one.asked.begun.t)
        if one.asked.ended.type == "ok" and one.earliest > one.asked.ended.t:
            wrong.append(f"{stream}: answered before what stands below was asked: {one.asked}")
    before = NEVER
    for one in reversed(placed):
        ended = one.asked.ended
        before = one.latest = min(before, ended.t if ended.type == "ok" else NEVER)


def _judge_conflicts(
    stream: str, asked: Sequence[Asked], placed: Sequence[_Placed], wrong: list[str]
) -> None:
    """Refused although the stream was at that version all the while, or told one it never had."""
    reached = {one.first + len(one.asked.ids) - 1: one for one in placed}
    left = {one.first - 1: one for one in placed}
    for each in asked:
        if not _is_conflict(each):
            continue
        begun, ended = each.begun.t, each.ended.t
        expected = each.expected
        if isinstance(expected, int):
            came = reached[expected].latest if expected in reached else 0 if not expected else NEVER
            went = left[expected].earliest if expected in left else NEVER
            if came <= begun and ended <= went:
                wrong.append(f"{stream}: it was at {expected} all the while: {each.ended}")
        told = each.ended.value["version"]
        could_come = reached[told].earliest if told in reached else 0 if not told else NEVER
        could_stay = left[told].latest if told in left else NEVER
        if could_come > ended or could_stay < begun:
            wrong.append(f"{stream}: it was never at {told} in that time: {each.ended}")


def _is_conflict(asked: Asked) -> bool:
    return asked.ended.type == "fail" and "version" in asked.ended.value
