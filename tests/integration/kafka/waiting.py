"""Waiting for a fact, without a pause of fixed length."""

import asyncio
from collections.abc import Callable


async def until(told: Callable[[], bool], seconds: float = 20.0) -> float:
    """How long it took until that was true."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(seconds):
        while not told():
            turn = loop.create_future()
            loop.call_later(0.01, turn.set_result, None)
            await turn
    return loop.time() - began
