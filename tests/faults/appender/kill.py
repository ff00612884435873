"""Where an appender dies: at a round trip with PostgreSQL, or at a call of SQLite's storage."""

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from eventbus.storage import open_storage
from eventbus.testing import FaultPlan
from eventbus.testing.faults import FaultyStorage, Kill
from tests.faults.appender.job import job, work
from tests.faults.history import History
from tests.faults.killed.children import ended, forked
from tests.faults.killed.wire import RoundTrips
from tests.faults.proxy import FaultProxy, Instead, Toward, nth, postgres

MOST_SECONDS = 60


def at_a_call(url: str, directory: Path, place: int) -> int:
    """The exit code; place 2n: before the n-th call; 2n+1: it has returned, and nobody heard."""

    async def run(history: History) -> None:
        plan = FaultPlan()
        plan.on_kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        async with FaultyStorage(open_storage(url, "appender"), plan) as storage:
            plan.add("*", place // 2 + 1, Kill(after=bool(place % 2)))
            await work(storage, job(place))

    return ended(forked(directory, f"place-{place}", run))


def at_a_round_trip(url: str, directory: Path, place: int) -> int:
    """The exit code; place 2n: before the n-th is sent whole; 2n+1: its answer is unread."""
    with _start() as start:

        async def run(history: History) -> None:
            async with open_storage(_through(url, start.port.wait()), "appender") as storage:
                start.entered.tell()
                start.begin.wait()
                await work(storage, job(place))

        pid = forked(directory, f"place-{place}", run)
        return asyncio.run(_struck(url, pid, place, start))


async def _struck(url: str, pid: int, place: int, start: "_Start") -> int:
    parts = urlsplit(url)
    toward: Toward = "client" if place % 2 else "server"
    upstream = (str(parts.hostname), int(parts.port or 5432))
    async with FaultProxy(upstream, framing=postgres) as proxy:
        start.port.tell(proxy.port)
        await asyncio.to_thread(start.entered.wait)
        proxy.rule(
            toward=toward,
            when=nth(place // 2 + 1, RoundTrips(toward)),
            do=Instead(lambda _: os.kill(pid, signal.SIGKILL)),
        )
        start.begin.tell()
        return await asyncio.to_thread(ended, pid)


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        parts._replace(
            netloc=f"{parts.username}@127.0.0.1:{port}", query=f"{parts.query}&sslmode=disable"
        )
    )


class _Signal:
    """A number from one process to another, which waits for it."""

    def __init__(self) -> None:
        self.ends: tuple[int, int] = os.pipe()

    def tell(self, number: int = 0) -> None:
        os.write(self.ends[1], str(number).encode())

    def wait(self) -> int:
        if not select.select([self.ends[0]], [], [], MOST_SECONDS)[0]:
            raise TimeoutError(f"the other process has told nothing for {MOST_SECONDS} s")
        return int(os.read(self.ends[0], 16))


@dataclass(frozen=True)
class _Start:
    """How the two agree when round trips begin to count."""

    port: _Signal  # of the proxy
    entered: _Signal
    begin: _Signal


@contextmanager
def _start() -> Iterator[_Start]:
    signals = [_Signal(), _Signal(), _Signal()]
    try:
        yield _Start(*signals)
    finally:
        for each in signals:
            for end in each.ends:
                os.close(end)
