"""Whether a transaction id still speaks of us after the server recovered from a crash."""

import pytest

from eventbus.postgres.fate import Fate


@pytest.mark.parametrize(
    ("written", "before", "now", "speaks"),
    [
        ("0/1516858", None, None, True),  # nothing happened, or a clean restart
        ("0/15168D0", "0/1516818", "0/1516818", True),  # no crash since
        ("0/15168D0", "0/1516818", None, True),  # a clean restart after it
        ("0/15168D0", "0/1516818", "0/15168F8", True),  # recovered beyond our rows
        ("0/1516858", None, "0/1516818", False),  # our rows were not recovered
        ("1/0", "0/FFFFFF00", "0/FFFFFFF0", False),  # positions are numbers, not texts
        (None, None, "0/1516818", None),  # perhaps
    ],
)
def test_an_id_speaks_of_us_only_if_our_rows_were_recovered(
    written: str | None, before: str | None, now: str | None, speaks: bool | None
) -> None:
    fate = Fate(xid=725, written=written, recovered=before)
    assert fate.speaks_of_us(now) is speaks


@pytest.mark.parametrize(
    ("seen", "now", "speaks"),
    [
        (["0/1516818"], "0/1516A00", True),  # what was before our rows does not count
        (["0/1516840"], "0/1516A00", False),  # the first crash took them, the second one others
        (["0/1516A00", "0/1516840"], "0/1516A00", False),
        (["0/1516840"], None, False),  # and then a clean restart
        (["0/1516860"], "0/1516A00", True),
    ],
)
def test_the_first_crash_after_our_rows_says_whether_they_were_recovered(
    seen: list[str], now: str | None, speaks: bool
) -> None:
    fate = Fate(xid=725, written="0/1516858", recovered="0/1516818")
    assert fate.speaks_of_us(now, seen) is speaks
