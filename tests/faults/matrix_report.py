"""`pytest --fault-matrix=FILE`: what became of each row of the fault matrix."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.faults.matrix import ROWS, Row, rows_of

Result = Literal["passed", "failed", "vacuous"]


class MatrixReport:
    """Listens to the tests of a run; a row of which nothing ran, or all was skipped, is vacuous.

    Args:
        file: written at the end.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of each test its call; or its set-up, if it came no further."""
        if report.when == "call" or not report.passed:
            told = {
                "test": report.nodeid,
                "outcome": report.outcome,
                "seconds": round(report.duration, 1),
            }
            for row in rows_of(report.nodeid):
                self._seen[row.number].append(told)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Any:
        """A row that did not pass fails the run."""
        yield
        if session.exitstatus == pytest.ExitCode.OK and any(
            result_of(self._seen[row.number]) != "passed" for row in ROWS
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table; the file has each test beside its row."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        rows = [self._told(row) for row in ROWS]
        told = {
            "tier": os.environ.get("EVENTBUS_FAULTS", "quick"),
            "seed": os.environ.get("EVENTBUS_SEED", "1"),
            "python": platform.python_version(),
            "rows": rows,
        }
        self._file.write_text(json.dumps(told, indent=1), encoding="utf-8")
        terminalreporter.section("fault matrix")
        for row in rows:
            line = "{row:>3}  {result:7}  {runs:>4} tests  {seconds:>8} s  {fault}"
            terminalreporter.write_line(line.format(**row, runs=len(row["tests"])))

    def _told(self, row: Row) -> Mapping[str, Any]:
        seen = self._seen[row.number]
        return {
            "row": row.number,
            "fault": row.fault,
            "result": result_of(seen),
            "seconds": round(sum(each["seconds"] for each in seen), 1),
            "tests": seen,
        }


def result_of(seen: Sequence[Mapping[str, Any]]) -> Result:
    """Of a row: one that failed counts, one that was skipped does not."""
    outcomes = {each["outcome"] for each in seen}
    if "failed" in outcomes:
        return "failed"
    return "passed" if "passed" in outcomes else "vacuous"
