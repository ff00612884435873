"""Health, metrics and facts over HTTP, from a thread of its own: also while the loop is blocked."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from typing import Any, NamedTuple

from eventbus.errors import ConfigurationError
from eventbus.instrumentation import Instrumentation, NoInstrumentation
from eventbus.service import pause

log: logging.Logger = logging.getLogger("eventbus.observability")

Health = Callable[[], tuple[bool, list[str]]]
"""Whether all is well, and what is not; called in a thread of the server, must not block."""

TEXT = "text/plain; charset=utf-8"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class LoopTick:
    """A service that ticks on the event loop, once a second: a thread can see whether it runs."""

    def __init__(
        self,
        *,
        limit_seconds: float = 30.0,
        every_seconds: float = 1.0,
        instrumentation: Instrumentation | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_seconds = limit_seconds
        self._every_seconds = every_seconds
        self._instrumentation: Instrumentation = instrumentation or NoInstrumentation()
        self._now = now
        self._ticked = now()

    async def run(self, stopping: asyncio.Event) -> None:
        """Tick until `stopping` is set; reports how late the loop wakes up."""
        self.touch()
        while not await pause(stopping, self._every_seconds):
            lag = max(0.0, self.age_seconds() - self._every_seconds)
            self.touch()
            self._instrumentation.gauge("loop_lag_seconds", lag)

    def touch(self) -> None:
        """The loop runs."""
        self._ticked = self._now()

    def age_seconds(self) -> float:
        """How long ago the last tick was; from any thread."""
        return self._now() - self._ticked

    def live(self) -> tuple[bool, list[str]]:
        """False if the loop has not ticked within the limit; from any thread."""
        age = self.age_seconds()
        if age <= self._limit_seconds:
            return True, []
        return False, [f"the event loop has not run for {age:.0f} s"]


class Probes:
    """Serves `/livez`, `/healthz`, `/readyz`, `/metrics` and `/info`, GET only.

    Args:
        host: what to bind; "" is all interfaces.
        port: 0: any free one, see `port`.
        live: False: only a restart helps. Never because a dependency is down.
        ready: False: something is missing, or it drains.
        metrics: the answer to a scrape; None: 404.
        info: facts without secrets, as JSON.
        tick: a loop that stands still is not live.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        live: Health,
        ready: Health,
        metrics: Callable[[], bytes] | None,
        info: Callable[[], dict[str, Any]],
        tick: LoopTick | None = None,
    ) -> None:
        self._address = (host, port)
        checks = [live] if tick is None else [tick.live, live]
        self._pages: dict[str, Callable[[], _Answer]] = {
            "/livez": lambda: _health(checks),
            "/healthz": lambda: _health(checks),
            "/readyz": lambda: _health([ready]),
            "/info": lambda: _Answer(200, "application/json", json.dumps(info()).encode()),
        }
        if metrics is not None:
            self._pages["/metrics"] = lambda: _Answer(200, PROMETHEUS_TEXT, metrics())
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        return self._address[1] if self._server is None else self._server.server_address[1]

    def start(self) -> None:
        """Bind and answer from now on; called twice, nothing more happens.

        Raises:
            ConfigurationError: EB1008, the address cannot be bound.
        """
        if self._server is not None:
            return
        host, port = self._address
        try:
            server = _Server(self._address, self._pages)
        except OSError as error:
            raise ConfigurationError(
                "EB1008",
                f"the probes cannot listen on {host}:{port}",
                where=f"Probes({host!r}, {port})",
                why=str(error),
                next="end what listens there, or take another address",
            ) from error
        self._server = server
        # polls for the end: stop() waits for so long at most
        threading.Thread(
            target=server.serve_forever, args=(0.1,), name=f"probes:{self.port}", daemon=True
        ).start()

    def stop(self) -> None:
        """Answer no more and free the port, within 0.1 s; called twice, nothing more happens."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


def _health(checks: list[Health]) -> _Answer:
    results = [check() for check in checks]
    reasons = [reason for _, why in results for reason in why]
    if all(ok for ok, _ in results):
        return _Answer(200, TEXT, "\n".join(["ok", *reasons, ""]).encode())
    return _Answer(503, TEXT, "\n".join([*(reasons or ["not ok"]), ""]).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # who asks and hangs must not keep the process

    def __init__(
        self, address: tuple[str, int], pages: Mapping[str, Callable[[], _Answer]]
    ) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self.pages = pages
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name: it may ask DNS, for seconds."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5  # seconds for whoever connects and says nothing
    server_version = "eventbus"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._send(_Answer(404, TEXT, "\n".join([*self.server.pages, ""]).encode()))
            return
        try:
            answer = page()
        except Exception:  # whatever a check does: the one who asks gets an answer
            log.exception("the page %s failed", self.path)
            answer = _Answer(500, TEXT, b"the check itself failed, see the log\n")
        self._send(answer)

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds."""
        log.debug(format, *args)
