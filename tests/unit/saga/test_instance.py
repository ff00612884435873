"""A time as text."""

from datetime import UTC, datetime, timedelta, timezone

from eventbus.saga.instance import text_of


def test_equal_times_of_two_zones_are_told_each_in_its_own() -> None:
    here = datetime(2026, 1, 1, 12, tzinfo=UTC)
    there = here.astimezone(timezone(timedelta(hours=2)))
    for moment in (here, there, here):
        assert text_of(moment) == moment.isoformat()
