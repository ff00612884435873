"""K4: what it accepts, and what it is for."""

from tests.faults.checkers.ledger import Snapshot, ledger


def snapshot(accounts: int, transit: int, lowest: int = 0) -> Snapshot:
    return Snapshot(t=1, accounts=accounts, transit=transit, lowest=lowest)


def test_k4_accepts_money_on_accounts_and_on_its_way() -> None:
    verdict = ledger([snapshot(100, 0), snapshot(60, 40), snapshot(100, 0)], total=100)
    assert verdict.ok
    assert verdict.figures == {"snapshots": 3, "with money in transit": 1, "wrong": 0}


def test_k4_finds_one_snapshot_among_many_in_which_money_is_gone_or_new() -> None:
    lost = ledger([snapshot(100, 0), snapshot(60, 30), snapshot(100, 0)], total=100)
    assert not lost.ok
    assert "transit=30" in str(lost)
    assert not ledger([snapshot(140, 0)], total=100).ok


def test_k4_finds_an_account_below_nothing_though_the_sum_is_right() -> None:
    assert not ledger([snapshot(100, 0, lowest=-1)], total=100).ok
