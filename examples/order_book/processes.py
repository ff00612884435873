"""Starts the services as processes, starts again who dies, and lets them drain in the end."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from examples.order_book.services import COMMANDS

READY = "ready"
DRAIN_SECONDS = 40.0
START_SECONDS = 120.0


class ServiceError(Exception):
    """A service cannot be started; the text is what it said last."""


@asynccontextmanager
async def services(transport: str, storage: str) -> AsyncIterator[None]:
    """All of them are ready when the block begins, and have drained when it is left.

    Raises:
        ServiceError: one ended before it was ready.
    """
    every = [Service(name, transport, storage) for name in COMMANDS]
    tasks = [asyncio.create_task(one.keep_up(), name=f"service:{one.name}") for one in every]
    ready = asyncio.create_task(_all_ready(every), name="services:ready")
    try:
        async with asyncio.timeout(START_SECONDS):
            ended, _ = await asyncio.wait([ready, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        yield
    finally:
        ready.cancel()
        for one in every:
            one.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_done(name: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a process to its end, again if it is killed; its exit code."""
    while True:
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        print(f"{name} is process {process.pid}", flush=True)
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                await process.wait()
        if code >= 0:
            return code
        print(f"{name} ended with {code}: it is started again", flush=True)


async def _all_ready(every: "Sequence[Service]") -> None:
    for one in every:
        await one.ready.wait()


class Service:
    """One process at a time, of one service."""

    def __init__(self, name: str, transport: str, storage: str) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._environment = environment(name, transport, storage)
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def keep_up(self) -> None:
        """Until it is stopped."""
        while not self._stopping:
            code, said = await self._run()
            if self._stopping:
                return
            if not self.ready.is_set():
                raise ServiceError(f"{self.name} ended with {code}:\n" + "\n".join(said))
            print(f"{self.name} ended with {code}: it is started again", flush=True)

    def stop(self) -> None:
        """It drains: what it began is ended, what it did not begin is left to others."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def _run(self) -> tuple[int, deque[str]]:
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eventbus", *COMMANDS[self.name]),
            env=self._environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        print(f"{self.name} is process {process.pid}", flush=True)
        said = deque[str](maxlen=20)
        assert process.stderr is not None  # noqa: S101 - a pipe was asked for
        try:
            async for line in process.stderr:
                said.append(line.decode(errors="replace").rstrip())
                if said[-1].strip().startswith(READY):
                    self.ready.set()
        finally:
            code = await self._end(process)
        return code, said

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                return await process.wait()
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            return await process.wait()


def environment(name: str, transport: str, storage: str) -> Mapping[str, str]:
    """Where a service runs; URLs may hold passwords, so they are no arguments.

    On Kafka each is a static member of its group: who is started again goes on at once, and is
    not waited for as if it had gone.
    """
    if transport.startswith("kafka"):
        mark = "&" if "?" in transport else "?"
        transport += f"{mark}group_instance_id={name.replace(' ', '-')}"
    return {**os.environ, "EVENTBUS_TRANSPORT": transport, "EVENTBUS_STORAGE": storage}
