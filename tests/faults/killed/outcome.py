"""What a sweep found at one point."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.history import read


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One point, one line of JSON."""

    point: str
    hit: bool  # False: the scenario never came there
    finished: bool
    hits: Sequence[str]
    violations: Sequence[str]

    def also(self, violations: Sequence[str]) -> "Outcome":
        """With more that is wrong."""
        return replace(self, violations=[*self.violations, *violations])


def hits_in(directory: Path) -> list[str]:
    """The calls, points and messages of the wire at which processes were struck."""
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in read(path)]
    faults = [line.value for line in lines if line.f == "fault"]
    return [" ".join([fault["call"], *fault.get("points", ())]) for fault in faults]


def errors_in(directory: Path) -> list[str]:
    """Of processes that ended by themselves, and should not have."""
    return [f"{path.stem}: {path.read_text()}" for path in sorted(directory.glob("*.error"))]
