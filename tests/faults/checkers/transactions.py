"""K7: transactions over several streams are serializable, in an order that agrees with time.

A stream is a register to whose list is appended; what stands there in the end is the order of its
versions. So who came before whom is known, and a cycle is an anomaly (Adya; Elle, Kingsbury and
Alvaro 2020). Transactions must expect the versions that they read: only then is this promised.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.faults.checkers.verdict import Verdict
from tests.faults.history import Operation

SHOWN = 5
Edges = dict[int, dict[int, str]]  # from, to, kind


@dataclass(slots=True)
class Unit:
    """A transaction: what it read of which streams, and what it appended."""

    begun: Operation
    ended: Operation
    reads: Mapping[str, Sequence[object]] = field(default_factory=dict)  # version, id of the last
    appends: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [name for ids in self.appends.values() for name in ids]


def transactions(
    history: Iterable[Operation],
    streams: Mapping[str, Sequence[str]],
    readers: Mapping[str, Sequence[str]] | None = None,
) -> Verdict:
    """No cycle, no read of what was undone or half done; every reader of the feed read a prefix.

    Args:
        history: operations `step`; the completion's `value` says `reads` (stream to version and id
            of the last event) and `appends` (stream to ids).
        streams: the ids that stand there in the end, in the order of versions.
        readers: the ids that each reader of the feed saw, in its order, to the end; the first one
            read when all was over.
    """
    units = _units(history)
    writer = {name: number for number, unit in enumerate(units) for name in unit.ids}
    standing = {name for ids in streams.values() for name in ids}
    done = [unit.ended.type == "ok" or bool(standing.intersection(unit.ids)) for unit in units]
    wrong = [*_reads(units, done, streams, writer), *_halves(units, done, standing)]
    edges = _edges(units, done, streams, writer)
    wrong += [_named(cycle, edges, units) for cycle in _cycles(edges)]
    wrong += _prefixes(readers or {}, streams)
    figures = {
        "transactions": len(units),
        "committed": sum(done),
        "events": len(standing),
        "edges": sum(map(len, edges.values())),
        "wrong": len(wrong),
    }
    return Verdict(checker="K7", ok=not wrong, figures=figures, counterexample=wrong[:SHOWN])


def _units(history: Iterable[Operation]) -> list[Unit]:
    begun: dict[tuple[str, int], Operation] = {}
    found = []
    for line in history:
        if line.f == "step" and line.type == "invoke":
            begun[line.p, line.op] = line
        elif line.f == "step":
            told = line.value
            found.append(
                Unit(begun[line.p, line.op], line, told.get("reads", {}), told.get("appends", {}))
            )
    return found


def _halves(units: Sequence[Unit], done: Sequence[bool], standing: set[str]) -> list[str]:
    wrong = []
    for unit, is_done in zip(units, done, strict=True):
        there = standing.intersection(unit.ids)
        if unit.ended.type == "fail" and there:
            wrong.append(f"it failed, and {sorted(there)} stand there: {unit.ended}")
        elif is_done and len(there) != len(unit.ids):
            wrong.append(f"{len(there)} of {len(unit.ids)} events stand there: {unit.ended}")
    return wrong


def _reads(
    units: Sequence[Unit],
    done: Sequence[bool],
    streams: Mapping[str, Sequence[str]],
    writer: Mapping[str, int],
) -> list[str]:
    wrong = []
    for unit in units:
        for stream, (version, last) in unit.reads.items():
            if not version:
                continue
            ids = streams.get(stream, ())
            at = int(str(version))
            by = writer.get(str(last))
            if by is not None and not done[by]:
                wrong.append(f"G1a: {stream}@{at} of a transaction that was undone: {unit.ended}")
            elif at > len(ids) or ids[at - 1] != last:
                wrong.append(f"no prefix: {stream}@{at} was {last}: {unit.ended}")
            elif by is not None and units[by].appends.get(stream, [last])[-1] != last:
                wrong.append(f"G1b: {stream}@{at} is the middle of a transaction: {unit.ended}")
    return wrong


def _edges(
    units: Sequence[Unit],
    done: Sequence[bool],
    streams: Mapping[str, Sequence[str]],
    writer: Mapping[str, int],
) -> Edges:
    edges: Edges = defaultdict(dict)

    def add(one: int | None, other: int | None, kind: str) -> None:
        if one is not None and other is not None and one != other:
            edges[one].setdefault(other, kind)

    for ids in streams.values():
        for before, after in pairwise(ids):
            add(writer.get(before), writer.get(after), "ww")
    for number, unit in enumerate(units):
        if not done[number]:
            continue
        for stream, (version, last) in unit.reads.items():
            at, ids = int(str(version)), streams.get(stream, ())
            add(writer.get(str(last)) if at else None, number, "wr")
            add(number, writer.get(ids[at]) if at < len(ids) else None, "rw")
    for one, other in _in_time(units, done):
        add(one, other, "time")
    return edges


def _in_time(units: Sequence[Unit], done: Sequence[bool]) -> Iterable[tuple[int, int]]:
    """Who ended before whom began: to the last that ended, which stand for those before them."""
    moments = []
    for number, unit in enumerate(units):
        if done[number]:
            moments.append((unit.begun.t, 1, number))
            if unit.ended.type == "ok":
                moments.append((unit.ended.t, 0, number))
    last: set[int] = set()
    seen: dict[int, set[int]] = {}
    for _, begins, number in sorted(moments):
        if begins:
            seen[number] = set(last)
            for one in last:
                yield one, number
        else:
            last = (last - seen.get(number, set())) | {number}


def _cycles(edges: Edges) -> list[list[int]]:
    """The parts in which everybody comes before everybody (Tarjan, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found = []
    for root in list(edges):
        if root in order:
            continue
        work = [(root, iter(edges.get(root, {})))]
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for one in following:
                if one not in order:
                    order[one] = low[one] = len(order)
                    stack.append(one)
                    on_stack.add(one)
                    work.append((one, iter(edges.get(one, {}))))
                    break
                if one in on_stack:
                    low[node] = min(low[node], order[one])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    part = []
                    while True:
                        part.append(stack.pop())
                        on_stack.discard(part[-1])
                        if part[-1] == node:
                            break
                    if len(part) > 1:
                        found.append(part)
    return found


def _named(part: Sequence[int], edges: Edges, units: Sequence[Unit]) -> str:
    """The shortest cycle of a part, by Adya's classes."""
    path = _shortest(part, edges)
    kinds = [edges[one][other] for one, other in zip(path, [*path[1:], path[0]], strict=True)]
    against = kinds.count("rw")
    name = "G0" if set(kinds) <= {"ww", "time"} else "G1c"
    name = name if not against else "G-single" if against == 1 else "G2"
    steps = " ".join(
        f"{units[one].ended.p}/{units[one].ended.op} -{kind}->"
        for one, kind in zip(path, kinds, strict=True)
    )
    return f"{name}: {steps}"


def _shortest(part: Sequence[int], edges: Edges) -> list[int]:
    inside, start = set(part), part[0]
    came: dict[int, int] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for one in edges.get(node, {}):
            if one == start:
                path = [node]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return path[::-1]
            if one in inside and one not in came:
                came[one] = node
                waiting.append(one)
    raise AssertionError("no cycle in a part that is one")


def _prefixes(
    readers: Mapping[str, Sequence[str]], streams: Mapping[str, Sequence[str]]
) -> list[str]:
    """Every reader saw everything once, all in one order, in which each stream has its own."""
    wrong = []
    stream_of = {
        each: (stream, at) for stream, ids in streams.items() for at, each in enumerate(ids)
    }
    order: Sequence[str] | None = None
    for name, seen in readers.items():
        order = seen if order is None else order
        place = next((at for at, (a, b) in enumerate(zip(seen, order, strict=False)) if a != b), -1)
        if place >= 0 or len(seen) != len(order):
            wrong.append(f"{name}: no prefix from {place}: {seen[place : place + 3]}")
        if lost := stream_of.keys() - set(seen):
            wrong.append(f"{name}: {len(lost)} lost, {sorted(lost)[:SHOWN]}")
        at_version: dict[str, int] = {}
        for each in seen:
            stream, at = stream_of.get(each, (each, 0))
            if at_version.get(stream, -1) != at - 1:
                wrong.append(f"{name}: {stream} inverted or doubled at {at + 1}")
                break
            at_version[stream] = at
    return wrong
