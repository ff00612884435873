"""RabbitMQ for tests: how it is asked, where it comes from, a vhost for each test."""

import asyncio
import base64
import http.client
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from eventbus.errors import ConfigurationError, MissingExtraError
from eventbus.testing.services.asking import apart
from eventbus.testing.services.packages import install_packages
from eventbus.testing.services.processes import BESIDE
from eventbus.testing.services.rabbitmq_node import (
    PASSWORD,
    PLUGINS,
    USER,
    Node,
    find_scripts,
    new_node,
    remove,
)
from eventbus.testing.services.service import (
    Absent,
    Container,
    ProbeError,
    Running,
    Say,
    without_password,
)

IMAGE = "rabbitmq:4.1-management"
MANAGEMENT = "EVENTBUS_TEST_RABBIT_MANAGEMENT_URL"
_PORT, _PROBE_SECONDS, _MANAGEMENT_SECONDS = 5672, 5.0, 20.0


class Rabbit:
    """The row `rabbit` of the table of services."""

    name = "rabbit"
    title = "RabbitMQ"
    enabled_by = (
        "python -m eventbus.testing.services up rabbit | apt-get install rabbitmq-server | "
        "EVENTBUS_TEST_RABBIT_URL=amqp://user:password@host/"
    )

    def probe(self, url: str) -> str:
        """The version, by a connection as the tests will open them."""
        return apart(_version(url))

    def container(self, host_port: int) -> Container:
        """The image with the pages of the management plugin, which makes the vhosts."""
        enable = f"rabbitmq-plugins enable --offline {' '.join(PLUGINS)}"
        return Container(
            image=IMAGE,
            port=_PORT,
            environment={"RABBITMQ_DEFAULT_USER": USER, "RABBITMQ_DEFAULT_PASS": PASSWORD},
            command=("sh", "-c", f"{enable} && exec docker-entrypoint.sh rabbitmq-server"),
            beside=_PORT + BESIDE,
        )

    def container_url(self, host: str, host_port: int) -> str:
        """With the user that `container` sets."""
        return f"amqp://{USER}:{PASSWORD}@{host}:{host_port}/"

    def start(self, parent: Path, *, install: bool, say: Say) -> Running | Absent:
        """A new node on free ports of 127.0.0.1."""
        scripts = scripts_or_reason(install=install, say=say)
        if isinstance(scripts, str):
            return Absent("native", scripts)
        node = new_node(scripts, parent, {})
        try:
            return start_node(node)
        except BaseException:
            node.remove()
            raise

    def stop(self, running: Running) -> None:
        """Only the processes that were started are ended, epmd too."""
        if running.directory is not None:
            remove(running.processes, Path(running.directory))


def scripts_or_reason(*, install: bool, say: Say) -> Path | str:
    """Where RabbitMQ's scripts are, those of a package installed now; or why there are none."""
    found = find_scripts()
    if found is not None:
        return found
    if not install:
        return "no RabbitMQ is installed (looked in the usual places, and for epmd on PATH)"
    refused = install_packages("rabbit", ["rabbitmq-server"], say)
    return refused or find_scripts() or "the package brought no rabbitmq-server"


def start_node(node: Node) -> Running:
    """Start it, and wait until it makes vhosts; what is written down of it.

    Raises:
        ConfigurationError: EB1303, it was not ready within 60 s.
    """
    began = time.monotonic()
    versions: list[str] = []

    def ready() -> bool:
        try:
            _manage(node.url, "GET", "/api/whoami", seconds=2)
            versions.append(apart(_version(node.url)))
        except ProbeError:
            time.sleep(0.05)
        return bool(versions)

    node.start(ready)
    return Running(
        service="rabbit",
        url=node.url,
        lane="native",
        version=versions[-1] if versions else apart(_version(node.url)),
        start_seconds=round(time.monotonic() - began, 3),
        processes=node.processes,
        directory=str(node.directory),
    )


def management_url(url: str) -> str:
    """Where the management plugin of the broker answers: by convention 10,000 ports above."""
    chosen = os.environ.get(MANAGEMENT)
    parts = urlsplit(url)
    if chosen and url.startswith(os.environ.get("EVENTBUS_TEST_RABBIT_URL", url)):
        return chosen
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"http://{host}:{(parts.port or _PORT) + BESIDE}"


def create_vhost(url: str) -> str:
    """A new, empty vhost on that broker, for one test; its URL.

    Raises:
        ConfigurationError: EB1303, the management plugin does not answer or refuses.
    """
    name = f"t_{uuid.uuid4().hex}"
    user = quote(unquote(urlsplit(url).username or "guest"), safe="")
    all_of_it = {"configure": ".*", "write": ".*", "read": ".*"}
    _administer(url, "PUT", f"/api/vhosts/{name}", {"tracing": False})
    _administer(url, "PUT", f"/api/permissions/{name}/{user}", all_of_it)
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def delete_vhost(url: str) -> None:
    """Delete what `create_vhost` made, with all in it; connections to it are closed.

    Raises:
        ConfigurationError: EB1303, the management plugin does not answer or refuses.
    """
    name = urlsplit(url).path.removeprefix("/")
    _administer(url, "DELETE", f"/api/vhosts/{name}")


def _administer(url: str, verb: str, path: str, body: object = None) -> None:
    try:
        _manage(url, verb, path, body)
    except ProbeError as error:
        raise ConfigurationError(
            "EB1303",
            "RabbitMQ for tests refuses a vhost for a test",
            where=f"{without_password(url)}: {verb} {management_url(url)}{path}",
            why=str(error),
            next=f"enable rabbitmq_management, give the user its tag, or set {MANAGEMENT}",
        ) from error


def _manage(
    url: str, verb: str, path: str, body: object = None, *, seconds: float = _MANAGEMENT_SECONDS
) -> None:
    parts, target = urlsplit(url), urlsplit(management_url(url))
    secure = target.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(target.hostname or "", target.port, timeout=seconds)
    who = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
    headers = {
        "Authorization": f"Basic {base64.b64encode(who.encode()).decode()}",
        "Content-Type": "application/json",
    }
    try:
        connection.request(verb, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status >= 400 and (verb, answer.status) != ("DELETE", 404):
        raise ProbeError(f"{answer.status} {answer.reason}: {text[:200]}")


async def _version(url: str) -> str:
    """From what the server says of itself when a connection is opened."""
    aiormq = _aiormq()
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            connection = await aiormq.connect(url)
            try:
                return _text(connection.server_properties["version"])
            finally:
                await connection.close()
    except TimeoutError as error:
        raise ProbeError(f"no answer within {_PROBE_SECONDS:.0f} s") from error
    except (aiormq.exceptions.AMQPError, OSError, ValueError, KeyError) as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _aiormq() -> Any:
    try:
        import aiormq
    except ImportError as error:
        raise MissingExtraError(
            "EB1005",
            "RabbitMQ for tests needs aiormq",
            where="eventbus.testing.services",
            why="it is not installed here",
            next="pip install 'eventbus[rabbit]'",
        ) from error
    return aiormq
