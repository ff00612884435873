"""A burst at once, then the rate; never more."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import ConfigurationError
from eventbus.resilience import RateLimit


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_burst_goes_at_once_and_the_next_waits() -> None:
    limit = RateLimit(10, burst=3, now=Clock())
    assert [limit.take() for _ in range(3)] == [0, 0, 0]
    assert limit.take() == pytest.approx(0.1)
    assert limit.take() == pytest.approx(0.2)


def test_an_idle_bucket_never_holds_more_than_its_burst() -> None:
    clock = Clock()
    limit = RateLimit(10, burst=3, now=clock)
    clock.seconds += 3600
    assert limit.take(3) == 0
    assert limit.take() == pytest.approx(0.1)


def test_more_than_the_burst_may_be_taken_and_is_waited_for() -> None:
    assert RateLimit(10, burst=3, now=Clock()).take(13) == pytest.approx(1.0)


@given(
    rate=st.floats(0.5, 100),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_no_interval_sees_more_than_burst_and_rate_allow(
    rate: float, burst: int, gaps: list[float]
) -> None:
    clock = Clock()
    limit = RateLimit(rate, burst, now=clock)
    used = []
    for gap in gaps:
        clock.seconds += gap
        used.append(clock.seconds + limit.take())
    assert used == sorted(used)
    for first, start in enumerate(used):
        for last in range(first, len(used)):
            allowed = burst + rate * (used[last] - start)
            assert last - first + 1 <= allowed + 1 + 1e-6


async def test_acquire_does_not_wait_while_there_are_tokens() -> None:
    limit = RateLimit(0.001, burst=2)
    async with asyncio.timeout(5):
        await limit.acquire()
        await limit.acquire()


async def test_acquire_waits_for_its_token() -> None:
    limit = RateLimit(50, burst=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        await limit.acquire()
    assert loop.time() - began >= 0.055


async def test_who_is_cancelled_gives_the_tokens_back() -> None:
    limit = RateLimit(1, burst=1, now=Clock())
    await limit.acquire()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await limit.acquire(100)
    assert limit.take() == pytest.approx(1.0)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_limit_that_lets_nothing_through_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ConfigurationError) as raised:
        RateLimit(rate, burst)
    assert raised.value.code == "EB1006"
