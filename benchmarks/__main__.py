"""`python -m benchmarks [--list] [--only N1,START] [--runs 5] [-o table|jsonl]`.

One line per case; every single run goes to build/benchmarks/<time>.jsonl, with its noise: the share
of the machine that others used. On a shared machine trust CPU per message before rates, and
ratios, which are paired within a round, before both.
"""

import argparse
import json
import platform
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from benchmarks import (
    events,
    flat,
    handling,
    in_memory,
    kafka,
    long_log,
    on_sqlite,
    postgres,
    projections,
    rabbit,
    rebuilding,
    relaying,
    saga_lag,
    saga_timers,
    sagas,
    startup,
)
from benchmarks.measure import CPUS, flush_ms
from benchmarks.rounds import Bar, Case, Figures, run_bar, summaries

BARS: dict[str, Callable[[], Bar]] = {
    "N1": in_memory.bar,
    "SQLITE": on_sqlite.bar,
    "FLAT": flat.bar,
    "START": startup.bar,
    **postgres.BARS,
    **projections.BARS,
    "N11": rebuilding.bar,
    **events.BARS,
    "LOG1M": long_log.bar,
    **sagas.BARS,
    **saga_lag.BARS,
    **saga_timers.BARS,
    "N2": rabbit.publishing,
    "N3": rabbit.consuming,
    "N4": rabbit.end_to_end,
    "N5": kafka.consuming,
    "N5B": kafka.publishing,
    "N6": relaying.bar,
    **handling.BARS,
}
SHOWN = (
    *("rate", "cpu_us", "ms", "above_ms", "of_raw", "times", "p50_ms", "p99_ms"),
    *("rss_0_mib", "rss_10_mib", "rss_50_mib", "rss_100_mib", "growth", "blocks_growth"),
    "peak_mib",
)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name bars and cases, run nothing")
    parser.add_argument("--only", default=",".join(BARS), help="bars, by comma")
    parser.add_argument("--runs", type=int, default=5, help="rounds; to publish figures, 9 or more")
    parser.add_argument("-o", dest="output", choices=("table", "jsonl"), default="table")
    given = parser.parse_args()
    given.only = given.only.upper().split(",")
    if unknown := [name for name in given.only if name not in BARS]:
        parser.error(f"no bar {', '.join(unknown)}; there are {', '.join(BARS)}")
    return given


def main() -> int:
    """0: every goal is held; 1: one is not."""
    given = arguments()
    bars = [BARS[name]() for name in given.only]
    if given.list:
        for bar in bars:
            print(f"{bar.name:12}{bar.what}")
            print("\n".join(f"{'':12}{case.name}" for case in bar.cases))
        return 0
    folder = Path("build/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
    with path.open("w") as raw:
        raw.write(json.dumps(machine()) + "\n")
        lines = [line for bar in bars for line in run(bar, given.runs, raw)]
    for line in lines if given.output == "jsonl" else ():
        print(json.dumps(line))
    if given.output == "table":
        print(table(lines))
        print(f"\n{json.dumps(machine())}\nraw runs: {path}")
    return 0 if all(line.get("held", True) for line in lines) else 1


def run(bar: Bar, runs: int, raw: TextIO) -> Sequence[Mapping[str, object]]:
    """All rounds of a bar; each run is written down when it is over."""

    def tell(case: Case, number: int, figures: Figures) -> None:
        line = {"bar": bar.name, "case": case.name, "round": number, "n": case.n, **figures}
        raw.write(json.dumps(line) + "\n")
        raw.flush()
        print(f"{bar.name} round {number + 1}: {case.name}", file=sys.stderr)

    return list(summaries(bar, run_bar(bar, runs, tell)))


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cpus": CPUS,
        "flush_ms": round(flush_ms(), 3),
    }


def table(lines: Sequence[Mapping[str, object]]) -> str:
    """For people."""
    rows: list[tuple[str, ...]] = [("bar", "case", "figures", "ratio", "noise", "goal")]
    for line in lines:
        figures = "  ".join(f"{name} {line[name]:,}" for name in SHOWN if name in line)
        goal = f"{line['goal']}: {'held' if line['held'] else 'MISSED'}" if "goal" in line else ""
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.3g}"
        row = (line["bar"], line["case"], figures, ratio, line["noise"], goal)
        rows.append(tuple(str(cell) for cell in row))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
