"""The watermark is the finished prefix, whatever the order of the verdicts."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from eventbus.memory.watermark import Watermark

gaps = st.lists(st.integers(1, 5), min_size=1, max_size=30)


@given(gaps, st.data())
def test_safe_is_behind_the_finished_prefix_after_every_verdict(
    steps: list[int], data: st.DataObject
) -> None:
    offsets = list(accumulate(steps))
    verdicts = data.draw(st.permutations(offsets))
    watermark = Watermark(1, 0)
    for offset in offsets:
        watermark.begin(offset)
    done: set[int] = set()
    for offset in verdicts:
        before = watermark.safe
        moved = watermark.finish(offset, 1)
        done.add(offset)
        prefix = [each for at, each in enumerate(offsets) if done.issuperset(offsets[: at + 1])]
        assert watermark.safe == (prefix[-1] + 1 if prefix else 0)
        assert moved == (watermark.safe != before)
    assert watermark.safe == offsets[-1] + 1


@given(gaps, st.data())
def test_verdicts_may_come_while_offsets_are_still_handed_out(
    steps: list[int], data: st.DataObject
) -> None:
    offsets = list(accumulate(steps))
    watermark = Watermark(1, 0)
    waiting: list[int] = []
    for offset in offsets:
        watermark.begin(offset)
        waiting.append(offset)
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            place: int = data.draw(st.integers(0, len(waiting) - 1))
            watermark.finish(waiting.pop(place), 1)
        assert watermark.safe <= min(waiting, default=offset + 1)
    while waiting:
        watermark.finish(waiting.pop(), 1)
    assert watermark.safe == offsets[-1] + 1


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_verdict_of_another_epoch_moves_nothing(epoch: int, other: int) -> None:
    watermark = Watermark(epoch, 0)
    watermark.begin_all(range(3))
    assert watermark.finish(0, other) == (epoch == other)
    assert watermark.safe == (1 if epoch == other else 0)


def test_a_verdict_given_twice_moves_nothing() -> None:
    watermark = Watermark(0, 0)
    watermark.begin_all(range(2))
    assert watermark.finish(0, 0)
    assert not watermark.finish(0, 0)
    assert watermark.safe == 1
