"""A worker that follows until SIGTERM: `python -m tests.faults.projecting_worker URL`."""

import asyncio
import signal
import sys

from tests.faults.projected_sales import Code
from tests.faults.projecting import bus_on, quick_leases


async def work(url: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with bus_on(url):
        print("follows", flush=True)
        await stopping.wait()


if __name__ == "__main__":
    quick_leases()
    Code.mended = True
    asyncio.run(work(sys.argv[1]))
