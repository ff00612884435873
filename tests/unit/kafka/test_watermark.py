"""Verdicts in any order: what may be committed, and what is known to the next owner."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_kafka.watermark import MAX_METADATA_BYTES, Mark, Watermark, read_mark

offsets = st.lists(st.integers(0, 300), unique=True, max_size=60).map(sorted)


@given(offsets=offsets, seed=st.integers(0, 1000), start=st.integers(0, 5))
def test_everything_below_the_mark_is_finished_and_all_of_it_in_the_end(
    offsets: list[int], seed: int, start: int
) -> None:
    seen = [offset + start for offset in offsets]
    watermark = Watermark(1, start)
    watermark.begin(seen)
    done: set[int] = set()
    for offset in Random(seed).sample(seen, len(seen)):
        before = watermark.safe
        moved = watermark.finish(offset, 1)
        done.add(offset)
        assert moved == (watermark.safe != before)
        assert all(each in done for each in seen if each < watermark.safe)
        assert watermark.safe == start or watermark.safe - 1 in done
        first_open = next((each for each in seen if each not in done), None)
        assert first_open is None or watermark.safe <= first_open
        assert watermark.is_open == (first_open is not None)
        assert watermark.done_above() == sorted(each for each in done if each >= watermark.safe)
    assert watermark.safe == (seen[-1] + 1 if seen else start)


@given(offsets=offsets.filter(bool), again=st.integers(0, 59))
def test_a_verdict_given_twice_changes_nothing(offsets: list[int], again: int) -> None:
    watermark = Watermark(1, 0)
    watermark.begin(offsets)
    offset = offsets[again % len(offsets)]
    watermark.finish(offset, 1)
    safe, done = watermark.safe, watermark.done_above()
    assert not watermark.finish(offset, 1)
    assert (watermark.safe, watermark.done_above()) == (safe, done)


def test_a_verdict_of_another_epoch_counts_for_nothing() -> None:
    watermark = Watermark(2, 10)
    watermark.begin([10])
    assert not watermark.finish(10, 1)
    assert watermark.safe == 10
    assert watermark.finish(10, 2)


def test_what_lies_behind_the_last_record_is_passed_over_when_nothing_is_open() -> None:
    watermark = Watermark(1, 0)
    watermark.begin([0])
    watermark.pass_over(5)
    assert watermark.safe == 0
    watermark.finish(0, 1)
    watermark.pass_over(5)
    assert watermark.safe == 5
    watermark.pass_over(3)
    assert watermark.safe == 5


def test_the_gap_counts_from_the_first_open_offset() -> None:
    watermark = Watermark(1, 0)
    watermark.begin([0, 1, 9])
    watermark.finish(0, 1)
    watermark.finish(9, 1)
    assert watermark.gap == 9


@given(
    offset=st.integers(0, 10**12),
    above=st.integers(0, 50_000),
    done=st.sets(st.integers(0, 500), max_size=100),
)
def test_a_mark_reads_as_it_was_written(offset: int, above: int, done: set[int]) -> None:
    mark = Mark(offset, offset + above, frozenset(offset + each for each in done))
    read = read_mark(offset, mark.metadata(), 10)
    assert read.limit == mark.limit
    assert read.done == (frozenset() if mark.is_clean else mark.done)


def test_what_does_not_fit_is_left_out_and_comes_again() -> None:
    done = frozenset(range(100_001, 150_000, 2))
    mark = Mark(100_000, 200_000, done)
    assert len(mark.metadata().encode()) <= MAX_METADATA_BYTES
    read = read_mark(100_000, mark.metadata(), 10)
    assert read.limit == 200_000
    assert read.done < done
    assert max(read.done) == 100_000 + 2 * len(read.done) - 1  # a prefix


def test_nothing_handed_out_is_clean() -> None:
    assert Mark(7, 7).metadata() == "eb1 clean"
    assert read_mark(7, "eb1 clean", 10) == Mark(7, 7)


@pytest.mark.parametrize(
    "metadata",
    [
        *(None, "", "somebody else's", "eb1", "eb1 open", "eb1 open x 1.2", "eb2 open 5 1.2"),
        *("eb1 open 5 1.x", "eb1 open 5 -1", "eb1 open 5 99999999999", "eb1 open 5 1 1"),
    ],
)
def test_unreadable_metadata_rule_nothing_out(metadata: str | None) -> None:
    assert read_mark(100, metadata, 50) == Mark(100, 150)


@given(st.text(max_size=40))
def test_any_metadata_are_read(metadata: str) -> None:
    mark = read_mark(5, metadata, 10)
    assert mark.offset == 5
    assert mark.limit >= 5
