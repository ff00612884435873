"""Pages of the log up to a position, the next one read while the present one is folded."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime

from eventbus.service import end
from eventbus.sourcing.rebuild.options import Options
from eventbus.storage import Storage
from eventbus.storage.events import FeedPage, Filter, Position


async def pages_of(
    storage: Storage, after: Position, upto: Position, only: Filter, options: Options
) -> AsyncGenerator[FeedPage, None]:
    """Everything after a position, and after where the options begin; no faster than they say."""

    async def read(after: Position) -> FeedPage:
        async with storage.transaction() as tx:
            return await tx.events.read_all(after=after, limit=options.page, upto=upto, only=only)

    if not isinstance(options.since, datetime):
        after = max(after, options.since)
    coming: asyncio.Task[FeedPage] | None = None
    loop = asyncio.get_running_loop()
    began, seen = loop.time(), 0
    try:
        while after < upto:
            page = await (read(after) if coming is None else coming)
            coming = None
            if page.read_to <= after:
                break
            after = page.read_to
            if after < upto and storage.capabilities.concurrent:
                coming = asyncio.create_task(read(after), name=f"scan:{after}")
            yield page
            seen += len(page.events)
            if options.rate is not None:
                await asyncio.sleep(max(0.0, began + seen / options.rate - loop.time()))
    finally:
        if coming is not None:
            await end([coming])
