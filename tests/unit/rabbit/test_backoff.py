"""How long a link waits before it connects again."""

import asyncio
import random

import pytest

from eventbus_rabbit.connection import Backoff


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest that each wait could have taken; nobody waits."""
    seconds: list[float] = []

    async def sleep(longest: float) -> None:
        seconds.append(longest)

    monkeypatch.setattr(random, "uniform", lambda shortest, longest: longest - shortest)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


async def test_waits_double_to_four_seconds_and_stay_there(waited: list[float]) -> None:
    backoff = Backoff()
    for _ in range(2000):  # hours of a broker that is away
        await backoff.wait()
    assert waited[:6] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert set(waited[3:]) == {4.0}


async def test_what_worked_begins_anew(waited: list[float]) -> None:
    backoff = Backoff()
    await backoff.wait()
    await backoff.wait()
    backoff.reset()
    await backoff.wait()
    assert waited == [0.5, 1.0, 0.5]
