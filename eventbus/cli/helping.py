"""Processes that share the scan of a rebuild with this one."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from eventbus.cli.flags import Settings
from eventbus.cli.locate import target_of
from eventbus.cli.output import note

if TYPE_CHECKING:
    from eventbus.sourcing.rebuild import Options

END_SECONDS = 5.0


@asynccontextmanager
async def helpers(
    settings: Settings, name: str, app: str | None, options: "Options", amount: int
) -> AsyncIterator[None]:
    """So many processes that assist; they end by themselves when all is copied, or are ended."""
    processes: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(amount):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "eventbus", *arguments(settings, name, app, options)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env=environment(settings),
            )
            processes.append(process)
        yield
    finally:
        for process in processes:
            await _ended(settings, process)


def arguments(settings: Settings, name: str, app: str | None, options: "Options") -> list[str]:
    """What a process that assists is told: the same app, events and pace."""
    words = ["--quiet", "projection", "assist", name, app or target_of(settings) or ""]
    since = options.since
    if since:
        words += ["--from", since.isoformat() if isinstance(since, datetime) else str(since)]
    for stream in options.streams:
        words += ["--stream", stream]
    words += ["--batch", str(options.page)]
    return words if options.rate is None else [*words, "--rate", str(options.rate)]


def environment(settings: Settings) -> dict[str, str]:
    """URLs hold passwords, and everybody sees a command line."""
    given = {
        "EVENTBUS_STORAGE": settings.storage,
        "EVENTBUS_TRANSPORT": settings.transport,
        "EVENTBUS_ENV_FILE": settings.env_file,
    }
    return dict(os.environ) | {name: value for name, value in given.items() if value is not None}


async def _ended(settings: Settings, process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    elif process.returncode:
        note(settings, f"a process that helped ended with {process.returncode}")
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
