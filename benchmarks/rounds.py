"""Interleaved rounds of cases, and what is reported of them.

A B C A B C …: a fresh loop per run, `gc.collect()` and `gc.freeze()` before the clock, set-up
outside it. A ratio is the median of the ratios to the base case within a round, never the quotient
of two medians. Runs in which others used more than a quarter of the machine are left out if five
quieter ones exist.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.measure import wait_for_quiet

NOISY = 0.25
ENOUGH = 5
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What our own case must reach.

    A rate depends on the machine (decision 0044). Where `where_base` is told, the rate of the base
    case on the machine the goal was set on, a slower machine is asked for the same share of it.
    """

    figure: str
    at_least: float = float("-inf")
    at_most: float = float("inf")
    where_base: float | None = None

    def __str__(self) -> str:
        bound = f"<= {self.at_most:g}" if self.at_most < float("inf") else f">= {self.at_least:g}"
        return f"{self.figure} {bound}" + (f", or {self.share:.2f} of the base" * bool(self.share))

    @property
    def share(self) -> float:
        """Of the base case; 0: none was told."""
        return 0.0 if self.where_base is None else self.at_least / self.where_base

    def held(self, figures: Figures) -> bool:
        """Whether it is reached."""
        if self.at_least <= figures[self.figure] <= self.at_most:
            return True
        return 0 < self.share <= figures["ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure; `run` answers the figures of one run, `noise` among them."""

    bar: str
    name: str
    n: int
    run: Callable[[int], Figures]
    goal: Goal | None = None
    best: Literal["median", "min"] = "median"
    fewest: int = 1  # runs, whatever is asked for
    most: int = 1000
    patience_seconds: float = 3.0  # for others to let the machine be


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Cases that are compared: the first one is the base."""

    name: str
    what: str
    ratio_of: str
    cases: Sequence[Case]


def run_bar(bar: Bar, runs: int, tell: Callable[[Case, int, Figures], None]) -> list[list[Figures]]:
    """All rounds: for each case its runs, in order."""
    found: list[list[Figures]] = [[] for _ in bar.cases]
    rounds = max(case.fewest for case in bar.cases) if runs < bar.cases[0].fewest else runs
    for number in range(min(rounds, max(case.most for case in bar.cases))):
        for case, figures in zip(bar.cases, found, strict=True):
            if number >= case.most:
                continue
            wait_for_quiet(case.patience_seconds)
            figures.append(case.run(case.n))
            tell(case, number, figures[-1])
    return found


def summaries(bar: Bar, found: Sequence[Sequence[Figures]]) -> Iterator[dict[str, object]]:
    """One line per case (`peers.md` names the fields): medians, or the best of it."""
    base = found[0]
    for case, figures in zip(bar.cases, found, strict=True):
        kept = quiet(figures)
        pick = min if case.best == "min" else statistics.median
        medians = {name: pick(one[name] for one in kept) for name in kept[0] if name != "noise"}
        line: dict[str, object] = {"bar": bar.name, "case": case.name, "n": case.n}
        line |= {name: significant(value) for name, value in medians.items()}
        line |= {
            f"{name}_range": [significant(min(values)), significant(max(values))]
            for name, values in ((name, [one[name] for one in kept]) for name in medians)
            if len(kept) > 1
        }
        line.setdefault("server_cpu_us", None)  # no case of these bars has a server
        to_base = ratio(bar.ratio_of, base, figures)
        line["ratio"] = to_base
        line["runs"] = len(kept)
        line["noise"] = round(statistics.median(one["noise"] for one in kept), 3)
        if case.goal is not None:
            line |= {
                "goal": str(case.goal),
                "held": case.goal.held({**medians, "ratio": to_base or 0}),
            }
        yield line


def quiet(figures: Sequence[Figures]) -> Sequence[Figures]:
    """The runs that count."""
    quieter = [one for one in figures if one["noise"] <= NOISY]
    return quieter if len(quieter) >= ENOUGH else figures


def ratio(name: str, base: Sequence[Figures], figures: Sequence[Figures]) -> float | None:
    """To the base case, within each round."""
    pairs = [
        theirs[name] / ours[name]
        for ours, theirs in zip(base, figures, strict=False)
        if name in ours and name in theirs and ours[name]
    ]
    return significant(statistics.median(pairs)) if pairs else None


def significant(value: float) -> float:
    """Four digits are more than a shared machine knows."""
    return float(f"{value:.4g}")
