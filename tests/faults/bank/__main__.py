"""`python -m tests.faults.bank [--transport kafka] [--seed N] [--effects N] [--every S]`: a run."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.faults.bank.mutants import MUTANTS
from tests.faults.bank.scenario import Plan, run


def main() -> int:
    """Exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.bank")
    parser.add_argument("--transport", choices=["memory", "kafka", "rabbit"], default="memory")
    parser.add_argument("--nodes", type=int, choices=[1, 3], default=1, help="of Kafka")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--effects", type=int, default=2_000)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two faults")
    parser.add_argument("--hits", type=int, default=1, help="of each kind, at least")
    parser.add_argument("--seconds", type=float, default=600.0, help="of torment, at most")
    parser.add_argument("--longest", type=float, default=6.0, help="seconds of one outage")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds to work off what is left")
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--directory", type=Path, help="for histories and logs; else temporary")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="bank-"))
    directory.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        transport=given.transport,
        nodes=given.nodes,
        longest=given.longest,
        rest_seconds=given.rest,
        seed=given.seed,
        effects=given.effects,
        every=given.every,
        hits=given.hits,
        most_seconds=given.seconds,
        mutant=given.mutant,
    )
    outcome = asyncio.run(run(plan, directory))
    print(f"{directory}\n{outcome}")
    return 0 if all(verdict.ok for verdict in outcome.verdicts) and not outcome.surprises else 1


if __name__ == "__main__":
    sys.exit(main())
