"""One request to the broker of the app, or of --transport, in a loop of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from eventbus.cli.flags import Settings
from eventbus.cli.locate import called
from eventbus.errors import TransportError

if TYPE_CHECKING:
    from eventbus.transport import Transport

R = TypeVar("R")


def with_transport(
    settings: Settings, transport: "Transport", work: "Callable[[Transport], Awaitable[R]]"
) -> R:
    """Enter it, work, leave it, within --timeout.

    Raises:
        TransportError: EB2001, no answer in time; or what the broker says.
    """

    async def at_work() -> R:
        async with asyncio.timeout(settings.timeout), transport:
            return await work(transport)

    try:
        return asyncio.run(at_work())
    except TimeoutError as error:
        raise TransportError(
            "EB2001",
            f"no answer within {settings.timeout:g} s",
            where=called(),
            why="the broker is busy, has much to show, or cannot be reached",
            next="eventbus doctor | --timeout 60s",
        ) from error
