"""Transports on a real broker, behind a proxy, or on a broker of their own to be broken."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import pytest

from eventbus.testing.services import RabbitServer, ServiceMissingError
from eventbus_rabbit import RabbitConfig, RabbitTransport
from tests.faults.proxy import FaultProxy, amqp

Make = Callable[..., RabbitTransport]


@pytest.fixture
def make(rabbit_url: str) -> Make:
    """One more transport on this test's vhost; options of the URL by name."""
    return lambda url=rabbit_url, **options: made(url, **options)


def made(url: str, **options: object) -> RabbitTransport:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return RabbitTransport(RabbitConfig.from_url(f"{url}?{query}", "test"))


@pytest.fixture
async def proxy(rabbit_url: str) -> AsyncIterator[FaultProxy]:
    parts = urlsplit(rabbit_url)
    async with FaultProxy((parts.hostname or "", parts.port or 5672), framing=amqp) as proxy:
        yield proxy


@pytest.fixture
def proxied_url(rabbit_url: str, proxy: FaultProxy) -> str:
    parts = urlsplit(rabbit_url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{proxy.port}"))


@pytest.fixture(scope="session")
def own_server() -> Iterator[RabbitServer]:
    """A broker that tests may kill; it runs between tests."""
    try:
        server = RabbitServer.create({"disk_free_limit.absolute": "50MB"})
    except ServiceMissingError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.remove())


class Management:
    """The broker as its operators see it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._vhost = parts.path[1:] or "%2F"
        self._base = f"http://127.0.0.1:{(parts.port or 0) + 10_000}/api"
        self._login = f"{parts.username}:{parts.password}"

    async def ask(self, method: str, path: str) -> object:
        return await asyncio.to_thread(self._ask, method, path)

    def _ask(self, method: str, path: str) -> object:
        from base64 import b64encode

        request = Request(f"{self._base}/{path.format(vhost=self._vhost)}", method=method)
        request.add_header("Authorization", f"Basic {b64encode(self._login.encode()).decode()}")
        with urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    async def queue(self, name: str) -> dict[str, object]:
        answer = await self.ask("GET", f"queues/{{vhost}}/{quote(name, safe='')}")
        assert isinstance(answer, dict)
        return answer


@pytest.fixture
def management(rabbit_url: str) -> Management:
    return Management(rabbit_url)
