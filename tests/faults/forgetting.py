"""A process that forgets somebody and is killed at a call on the way; `test_forgetting` runs it."""

import asyncio
import os
import signal
import sys

from eventbus import EventBus
from eventbus.storage import open_storage
from eventbus.testing import FaultPlan
from eventbus.testing.faults import FaultyStorage, Kill
from tests.integration.personal.shop import SignedUp

MASTER = b"m" * 32


async def forget(url: str, subject: str, nth: int, *, after: bool) -> None:
    plan = FaultPlan()
    plan.on_kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    storage = FaultyStorage(open_storage(url, "forgetting"), plan)
    bus = EventBus("memory://", storage=storage, handlers=[SignedUp], master_key=MASTER)
    async with bus.client():
        plan.add("*", nth, Kill(after=after))
        await bus.events.forget(subject)
    print("done")


if __name__ == "__main__":
    asyncio.run(forget(sys.argv[1], sys.argv[2], int(sys.argv[3]), after=sys.argv[4] == "after"))
