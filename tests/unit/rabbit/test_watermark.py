"""Acks out of order: the broker hears of each finished tag once, of no other, soon."""

from hypothesis import given
from hypothesis import strategies as st

from eventbus_rabbit.watermark import GAP_SECONDS, Acks, Watermark


class Broker:
    """What RabbitMQ does with acks: a tag it does not know closes the channel."""

    def __init__(self, count: int) -> None:
        self.open = set(range(1, count + 1))
        self.acked: set[int] = set()
        self.frames = 0

    def hear(self, acks: Acks) -> None:
        if acks.prefix is not None:
            assert acks.prefix in self.open, "PRECONDITION_FAILED: unknown delivery tag"
            self._ack({tag for tag in self.open if tag <= acks.prefix})
        for tag in acks.singles:
            assert tag in self.open, "PRECONDITION_FAILED: unknown delivery tag"
            self._ack({tag})
        self.frames += (acks.prefix is not None) + len(acks.singles)

    def requeue(self, tag: int) -> None:
        assert tag in self.open
        self.open.remove(tag)

    def _ack(self, tags: set[int]) -> None:
        self.open -= tags
        self.acked |= tags


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, list[tuple[str, int]]]:
    """Tags, a verdict for some of them in any order, and sends in between."""
    count = draw(st.integers(1, 30))
    order = draw(st.permutations(range(1, count + 1)))
    verdicts = draw(st.lists(st.sampled_from(["ack", "back"]), min_size=count, max_size=count))
    given = draw(st.integers(0, count))
    steps: list[tuple[str, int]] = []
    for tag, verdict in zip(order[:given], verdicts, strict=False):
        steps.append((verdict, tag))
        if draw(st.booleans()):
            steps.append(("send", draw(st.integers(0, 150))))
    return count, steps


@given(schedules())
def test_exactly_what_is_finished_is_acknowledged_once(
    schedule: tuple[int, list[tuple[str, int]]],
) -> None:
    count, steps = schedule
    broker, watermark, now = Broker(count), Watermark(), 0.0
    finished: set[int] = set()
    for what, number in steps:
        if what == "ack":
            watermark.finish(number)
            finished.add(number)
        elif what == "back":
            broker.requeue(number)
            watermark.give_back(number)
        else:
            now += number / 1000
            broker.hear(watermark.due(now))
            assert broker.acked <= finished
    broker.hear(watermark.due(now))
    broker.hear(watermark.due(now + 2 * GAP_SECONDS))
    assert broker.acked == finished
    assert watermark.unsent == 0
    assert watermark.due(now + 1) == Acks(None, ())


@given(schedules())
def test_a_flush_leaves_nothing_unsent(schedule: tuple[int, list[tuple[str, int]]]) -> None:
    count, steps = schedule
    broker, watermark = Broker(count), Watermark()
    for what, number in steps:
        if what == "ack":
            watermark.finish(number)
    broker.hear(watermark.due(0.0, all=True))
    assert broker.acked == {number for what, number in steps if what == "ack"}
    assert watermark.unsent == 0


def test_a_prefix_is_one_frame_however_long() -> None:
    broker, watermark = Broker(100), Watermark()
    for tag in range(100, 0, -1):
        watermark.finish(tag)
    broker.hear(watermark.due(0.0))
    assert broker.frames == 1
    assert not broker.open


def test_what_is_above_a_gap_waits_100_ms_for_it_to_close() -> None:
    watermark = Watermark()
    watermark.finish(3)
    assert watermark.due(0.0) == Acks(None, ())
    assert watermark.unsent == 1
    assert watermark.due(0.09) == Acks(None, ())
    assert watermark.due(0.1) == Acks(None, [3])
    watermark.finish(1)
    assert watermark.due(0.2) == Acks(1, ())
    watermark.finish(2)
    assert watermark.due(0.3) == Acks(2, ())
    watermark.finish(4)
    assert watermark.due(0.4) == Acks(4, ())
