"""`python -m tests.faults.killed URL DIRECTORY named|frozen|wire [FIRST STEP]`: a line per point.

The database is this sweep's alone: it is prepared first, and emptied before each point.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.faults.killed.ground import prepare
from tests.faults.killed.outcome import Outcome
from tests.faults.killed.points import FROZEN, NAMED, frozen, killed
from tests.faults.killed.wire import killed_at


def main() -> None:
    """All points of a kind, or of the wire from the first on, until the scenario is over."""
    url, where, kind, *numbers = sys.argv[1:]
    asyncio.run(prepare(url))
    if kind == "wire":
        first, step = map(int, numbers)
        while _told(killed_at(url, _directory(where, str(first)), first)).hit:
            first += step
        return
    act, points = (killed, NAMED) if kind == "named" else (frozen, FROZEN)
    for point in points:
        _told(act(url, _directory(where, point), point))


def _directory(where: str, point: str) -> Path:
    directory = Path(where, point)
    directory.mkdir(parents=True)
    return directory


def _told(outcome: Outcome) -> Outcome:
    print(json.dumps(asdict(outcome)), flush=True)
    return outcome


if __name__ == "__main__":
    main()
