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
