"""K4: money is neither made nor lost, at every snapshot, not only in the end."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.checkers.verdict import Verdict

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one REPEATABLE READ transaction saw."""

    t: int
    accounts: int  # sum of all balances
    transit: int  # taken from one account, not given to the other one yet
    lowest: int  # of the balances


def ledger(snapshots: Sequence[Snapshot], *, total: int) -> Verdict:
    """Accounts and transit sum up to `total` in each, and no account is below 0."""
    wrong = [one for one in snapshots if one.accounts + one.transit != total or one.lowest < 0]
    return Verdict(
        checker="K4",
        ok=not wrong,
        figures={
            "snapshots": len(snapshots),
            "with money in transit": sum(one.transit > 0 for one in snapshots),
            "wrong": len(wrong),
        },
        counterexample=wrong[:SHOWN],
    )
