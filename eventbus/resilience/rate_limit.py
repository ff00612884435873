"""A token bucket: how fast keys are redriven, how often something may be tried."""

import asyncio
import time
from collections.abc import Callable

from eventbus.errors import ConfigurationError


class RateLimit:
    """Lets `burst` through at once, and `per_second` in the long run.

    Who finds the bucket empty takes from its future and waits, so those who ask first go first.
    """

    def __init__(
        self, per_second: float, burst: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        _check(per_second, burst)
        self._per_second = per_second
        self._burst = float(burst)
        self._now = now
        self._tokens = self._burst  # below zero: promised to those who wait
        self._at = now()

    def take(self, n: int = 1) -> float:
        """Take `n` tokens, also more than `burst`; how many seconds to wait before using them."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second) - n
        self._at = now
        return max(0.0, -self._tokens / self._per_second)

    def give_back(self, n: int = 1) -> None:
        """Return tokens that were taken and not used."""
        self._tokens = min(self._burst, self._tokens + n)

    async def acquire(self, n: int = 1) -> None:
        """Take `n` tokens and wait for them; cancelled, they are given back."""
        wait = self.take(n)
        if wait == 0:
            return
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.give_back(n)
            raise


def _check(per_second: float, burst: int) -> None:
    if per_second > 0 and burst >= 1:
        return
    raise ConfigurationError(
        "EB1006",
        f"a rate of {per_second:g} per second with bursts of {burst} lets nothing through",
        where=f"RateLimit({per_second:g}, {burst})",
        why="tokens would never be there",
        next="take a rate above zero and a burst of at least 1",
    )
