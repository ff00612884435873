"""Waiting for facts that nobody signals."""

import asyncio
from collections.abc import Callable

from eventbus_rabbit import RabbitTransport


async def until(fact: Callable[[], bool], *, within: float = 60.0) -> None:
    """Return as soon as it holds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within):
        while not fact():
            turn = loop.create_future()
            loop.call_later(0.01, turn.set_result, None)
            await turn


async def until_well(transport: RabbitTransport, *, within: float = 60.0) -> None:
    """Until nothing keeps it from working."""
    await until(lambda: transport.trouble is None, within=within)
