"""K5 and K7: what they accept, and what they are for."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.faults.checkers.expected_versions import expected_versions
from tests.faults.checkers.transactions import transactions
from tests.faults.history import History, Operation

Reads = Mapping[str, tuple[int, str]]


class Told:
    """Histories by hand: a clock that moves with every line."""

    def __init__(self) -> None:
        self._time = 0
        self.history = History("p", clock=self._clock)

    def _clock(self) -> int:
        self._time += 1
        return self._time

    def asks(self, *ids: str, expected: int | str) -> int:
        value = {"ids": ids, "expected": expected}
        return self.history.invoke("append", key="s", value=value)

    def hears(self, number: int, type: Any, version: int | None = None) -> None:
        value = {} if version is None else {"version": version}
        self.history.note("append", type, number, key="s", value=value)

    def appended(self, *ids: str, expected: int | str, version: int) -> None:
        self.hears(self.asks(*ids, expected=expected), "ok", version)

    def begins(self) -> int:
        return self.history.invoke("step")

    def ends(
        self,
        number: int,
        appends: Mapping[str, Sequence[str]],
        reads: Reads | None = None,
        type: Any = "ok",
    ) -> None:
        value = {"appends": appends, "reads": reads or {}}
        self.history.note("step", type, number, value=value)

    @property
    def lines(self) -> list[Operation]:
        return self.history.operations


def test_k5_accepts_successes_conflicts_and_what_is_unknown() -> None:
    told = Told()
    told.appended("a", "b", expected=0, version=2)
    slow = told.asks("c", expected=2)
    late = told.asks("d", expected=2)
    told.hears(slow, "ok", 3)
    told.hears(late, "fail", 3)
    told.hears(told.asks("e", expected="any"), "info")
    told.hears(told.asks("f", expected=7), "info")
    verdict = expected_versions(told.lines, {"s": ["a", "b", "c", "e"]})
    assert verdict.ok, str(verdict)
    assert verdict.figures["conflicts"] == 1
    assert verdict.figures["unknown"] == 2


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (["a"], "not whole"),  # lost
        (["a", "b", "b"], "stands at"),  # doubled
        (["b", "a"], "stands at 2"),  # not where it was expected
        (["a", "b", "x"], "3 events, appended were 2"),  # of nobody
        (["a", "b", "c"], "it failed, and stands"),
    ],
)
def test_k5_finds_what_stands_elsewhere(standing: Sequence[str], said: str) -> None:
    told = Told()
    told.appended("a", expected=0, version=1)
    told.appended("b", expected=1, version=2)
    told.hears(told.asks("c", expected=1), "fail", 2)
    verdict = expected_versions(told.lines, {"s": standing})
    assert not verdict.ok
    assert said in str(verdict)


def test_k5_finds_a_conflict_at_the_version_that_was_expected() -> None:
    told = Told()
    told.appended("a", expected=0, version=1)
    told.hears(told.asks("b", expected=1), "fail", 1)
    assert "all the while" in str(expected_versions(told.lines, {"s": ["a"]}))


def test_k5_finds_a_conflict_with_a_version_that_came_later() -> None:
    told = Told()
    told.hears(told.asks("x", expected=3), "fail", 1)
    told.appended("a", expected=0, version=1)
    assert "never at 1" in str(expected_versions(told.lines, {"s": ["a"]}))


def test_k5_finds_an_append_that_was_answered_before_the_one_below_it_was_asked_for() -> None:
    told = Told()
    told.appended("b", expected="any", version=2)
    told.appended("a", expected="any", version=1)
    assert "answered before" in str(expected_versions(told.lines, {"s": ["a", "b"]}))


def test_k7_accepts_transactions_in_an_order() -> None:
    told = Told()
    one, two = told.begins(), told.begins()
    told.ends(two, {"x": ["b"], "y": ["c"]}, {"x": (1, "a"), "y": (0, "")})
    told.ends(one, {"x": ["a"]})
    told.ends(told.begins(), {"y": ["d"]}, type="fail")
    verdict = transactions(
        told.lines, {"x": ["a", "b"], "y": ["c"]}, {"end": ["a", "b", "c"], "r": ["a", "b", "c"]}
    )
    assert verdict.ok, str(verdict)
    assert verdict.figures["committed"] == 2


def _crossed(told: Told) -> None:
    one, two = told.begins(), told.begins()
    told.ends(one, {"x": ["a"], "y": ["b"]})
    told.ends(two, {"x": ["c"], "y": ["d"]})


def _skewed(told: Told) -> None:
    one, two = told.begins(), told.begins()
    told.ends(one, {"x": ["a"]}, {"y": (0, "")})
    told.ends(two, {"y": ["b"]}, {"x": (0, "")})


def _read_in_a_circle(told: Told) -> None:
    one, two = told.begins(), told.begins()
    told.ends(one, {"x": ["a"]}, {"y": (1, "b")})
    told.ends(two, {"y": ["b"]}, {"x": (1, "a")})


def _stale(told: Told) -> None:
    told.ends(told.begins(), {"x": ["a"]})
    told.ends(told.begins(), {}, {"x": (0, "")})


@pytest.mark.parametrize(
    ("tell", "standing", "name"),
    [
        (_crossed, {"x": ["a", "c"], "y": ["d", "b"]}, "G0"),
        (_read_in_a_circle, {"x": ["a"], "y": ["b"]}, "G1c"),
        (_stale, {"x": ["a"]}, "G-single"),
        (_skewed, {"x": ["a"], "y": ["b"]}, "G2"),
    ],
)
def test_k7_names_a_cycle(tell: Any, standing: Mapping[str, Sequence[str]], name: str) -> None:
    told = Told()
    tell(told)
    verdict = transactions(told.lines, standing)
    assert not verdict.ok
    assert f"{name}: p/" in str(verdict)


def test_k7_finds_reads_of_what_was_undone_of_halves_and_of_no_prefix() -> None:
    told = Told()
    told.ends(told.begins(), {"x": ["a"]}, type="fail")
    told.ends(told.begins(), {"y": ["b", "c"]})
    told.ends(told.begins(), {}, {"x": (1, "a")})
    told.ends(told.begins(), {}, {"y": (1, "b")})
    told.ends(told.begins(), {}, {"y": (2, "b")})
    found = str(transactions(told.lines, {"y": ["b", "c"]}))
    assert "G1a: x@1" in found
    assert "G1b: y@1" in found
    assert "no prefix: y@2" in found


def test_k7_finds_half_a_transaction_and_a_failed_one_that_stands() -> None:
    told = Told()
    told.ends(told.begins(), {"x": ["a"], "y": ["b"]}, type="info")
    told.ends(told.begins(), {"z": ["c"]}, type="fail")
    found = str(transactions(told.lines, {"x": ["a"], "z": ["c"]}))
    assert "1 of 2 events stand there" in found
    assert "it failed, and ['c'] stand there" in found


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (["a", "c"], "1 lost"),
        (["a", "b", "b", "c"], "inverted or doubled"),
        (["b", "a", "c"], "inverted or doubled"),
        (["a", "c", "b"], "no prefix from 1"),
    ],
)
def test_k7_finds_a_reader_that_saw_something_else(seen: Sequence[str], said: str) -> None:
    told = Told()
    told.ends(told.begins(), {"x": ["a", "b"], "y": ["c"]})
    standing = {"x": ["a", "b"], "y": ["c"]}
    verdict = transactions(told.lines, standing, {"end": ["a", "b", "c"], "r": seen})
    assert not verdict.ok
    assert said in str(verdict)
