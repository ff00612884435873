"""K0: killed at each round trip with the server, before it leaves, or with its answer unread.

A proxy between process and server counts them, and kills: so there is no position in a driver or an
adapter that this does not reach, COMMIT sent and not answered among them.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from eventbus.testing.faults import FaultPlan
from tests.faults.history import History
from tests.faults.killed.children import ended, forked
from tests.faults.killed.ground import empty, pass_time
from tests.faults.killed.outcome import Outcome
from tests.faults.killed.points import finished
from tests.faults.killed.scenario import scenario
from tests.faults.proxy import Action, FaultProxy, Instead, Match, Toward, nth, postgres

# Sync, Flush or a simple query ends what is sent; the server says when it is ready for more.
_ENDS: Mapping[Toward, bytes] = {"server": b"SHQ", "client": b"Z"}


class RoundTrips:
    """Counts them on their way in one direction, and knows what the one at hand is about."""

    def __init__(self, toward: Toward) -> None:
        self._ends = _ENDS[toward]
        self.about = ""  # a simple query, or what the server says that it did

    def __call__(self, frame: bytes) -> bool:
        """Whether this is the end of one."""
        if frame[:1] in b"QC":
            self.about = frame[5:-1].decode(errors="replace")[:60]
        return frame[:1] in self._ends


class Strike(NamedTuple):
    """The rule of the proxy."""

    toward: Toward
    when: Match
    do: Action


def killed_at(url: str, directory: Path, number: int) -> Outcome:
    """Point 2n: before the n-th round trip is sent whole; 2n+1: its answer is there, and unread."""
    asyncio.run(empty(url))
    toward: Toward = "client" if number % 2 else "server"
    port_read, port_write = os.pipe()
    pid = forked(directory, "killed", partial(_by_proxy, url, port_read))
    os.close(port_read)
    with History("proxy", path=directory / "proxy.jsonl") as history:
        trips = RoundTrips(toward)

        def kill(frame: bytes) -> None:
            os.kill(pid, signal.SIGKILL)
            history.note("fault", "start", 0, value={"call": f"{toward}: {trips.about}"})

        strike = Strike(toward, nth(number // 2 + 1, trips), Instead(kill))
        code = asyncio.run(_through_proxy(url, port_write, pid, strike))
    asyncio.run(pass_time(url))
    return finished(url, directory, str(number), hit=code == -signal.SIGKILL)


async def _by_proxy(url: str, port: int, history: History) -> None:
    number = int(os.read(port, 16))
    parts = urlsplit(url)
    proxied = parts._replace(netloc=f"{parts.username}@127.0.0.1:{number}")
    await scenario(urlunsplit(proxied), url, FaultPlan(), history)


async def _through_proxy(url: str, port: int, pid: int, strike: Strike) -> int:
    parts = urlsplit(url)
    upstream = (str(parts.hostname), int(parts.port or 5432))
    async with FaultProxy(upstream, framing=postgres) as proxy:
        proxy.rule(toward=strike.toward, when=strike.when, do=strike.do)
        os.write(port, str(proxy.port).encode())
        os.close(port)
        return await asyncio.to_thread(ended, pid)
