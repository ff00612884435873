"""Waiting for a fact, without a pause of fixed length."""

import asyncio
from collections.abc import Callable


async def until(told: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return as soon as that is true."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        while not told():
            turn = loop.create_future()
            loop.call_later(0.01, turn.set_result, None)
            await turn
