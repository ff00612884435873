"""The lane of Docker: one container, found and ended by its id."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eventbus.errors import ConfigurationError
from eventbus.testing.services.processes import BESIDE, free_port, wait_until
from eventbus.testing.services.service import (
    Absent,
    Container,
    ProbeError,
    Running,
    Say,
    Service,
    variable,
)

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.docker_client import DockerClient

ENGINE_SECONDS = 2
PULL_SECONDS = 60.0
READY_SECONDS = 60.0
REMOVE_SECONDS = (
    180  # without a layered file system an engine deletes every file (measured: over 30 s)
)


def start(service: Service, *, say: Say) -> Running | Absent:
    """A new container that answers, on loopback if the engine is on this machine.

    It outlives this process: the reaper of testcontainers is off, `remove` ends it.
    """
    engine = _engine()
    if isinstance(engine, Absent):
        return engine
    image = os.environ.get(variable(service.name, "IMAGE")) or service.container(0).image
    try:
        return _without_image(engine, image, say) or _run(service, image, engine)
    finally:
        engine.client.close()


def remove(container_id: str) -> None:
    """End a container and its volumes; nothing if it is gone.

    Raises:
        ConfigurationError: EB1303, the engine refuses, or is not done within 180 s.
    """
    from docker.errors import NotFound  # type: ignore[import-untyped]  # it has no types

    engine = _engine(seconds=REMOVE_SECONDS)
    if isinstance(engine, Absent):
        return  # no engine runs, so no container of it does
    try:
        engine.client.containers.get(container_id).remove(force=True, v=True)
    except NotFound:
        return
    except Exception as error:  # the engine went away, or its client's deadline passed
        raise _not_removed(container_id, error) from error
    finally:
        engine.client.close()


def _not_removed(container_id: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        "EB1303",
        "a container for tests was not removed",
        where=f"container {container_id}",
        why=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
        next="python -m eventbus.testing.services down, once the engine answers; "
        f"or docker rm -f -v {container_id[:12]}",
    )


def _engine(seconds: int = ENGINE_SECONDS) -> "DockerClient | Absent":
    try:
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ImportError:
        return Absent("docker", "testcontainers is not installed: pip install 'eventbus[testing]'")
    try:
        _ping(get_docker_host() or "unix:///var/run/docker.sock", seconds)
        return DockerClient(timeout=seconds)
    except Exception as error:  # ours, the client's, of requests, of urllib3: no engine
        return Absent("docker", f"no engine answers within {seconds} s: {error}")


def _ping(address: str, seconds: int) -> None:
    """Ask before docker-py does; addresses with TLS or ssh are left to it.

    A client of docker-py that cannot be made leaves its socket open: a ResourceWarning in whatever
    test runs next (measured with 7.2).
    """
    parts = urlsplit(address)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        target: Any = parts.path
    elif parts.scheme == "tcp" and not os.environ.get("DOCKER_TLS_VERIFY"):
        connection = socket.socket()
        target = (parts.hostname, parts.port or 2375)
    else:
        return
    with connection:
        connection.settimeout(seconds)
        connection.connect(target)
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        if not connection.recv(5):
            raise ConnectionError("the connection was closed without an answer")


def _without_image(engine: "DockerClient", image: str, say: Say) -> Absent | None:
    from docker.errors import ImageNotFound

    try:
        engine.client.images.get(image)
    except ImageNotFound:
        say(f"docker: pulling {image}, at most {PULL_SECONDS:.0f} s")
        return _pull(image)
    except Exception as error:  # the engine went away
        return Absent("docker", f"the engine does not say whether it has {image}: {error}")
    return None


def _pull(image: str) -> Absent | None:
    """The client has no deadline for a whole pull; left alone, the engine goes on with it."""
    failures: list[BaseException] = []

    def pull() -> None:
        from testcontainers.core.docker_client import DockerClient

        try:
            with closing(DockerClient(timeout=60).client) as client:
                client.images.pull(image)
        except Exception as error:  # whatever it is, it is told as the reason
            failures.append(error)

    thread = threading.Thread(target=pull, name=f"docker-pull:{image}", daemon=True)
    thread.start()
    thread.join(PULL_SECONDS)
    if thread.is_alive():
        return Absent("docker", f"{image} is not here and not pulled within {PULL_SECONDS:.0f} s")
    if failures:
        return Absent("docker", f"{image} is not here and cannot be pulled: {failures[0]}")
    return None


def _run(service: Service, image: str, engine: "DockerClient") -> Running | Absent:
    began = time.monotonic()
    port = free_port()
    container = _container(service.container(port), image, port, engine)
    try:
        with _without_reaper():
            container.start()
    except Exception as error:  # the engine's and the client's: all of them mean this lane is out
        container.stop()  # it may have been made
        return Absent("docker", f"{image} does not start: {error}")
    host = "127.0.0.1" if _is_local(engine) else container.get_container_host_ip()
    try:
        return _when_ready(service, service.container_url(host, port), container, began)
    finally:
        container.get_docker_client().client.close()


def _container(
    wanted: Container, image: str, host_port: int, engine: "DockerClient"
) -> "DockerContainer":
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image, docker_client_kw={"timeout": 60})
    container.with_envs(**wanted.environment)
    if wanted.command:
        container.with_command(list(wanted.command))
    published = {wanted.port: host_port}
    if wanted.beside is not None:
        published[wanted.beside] = host_port + BESIDE
    for inside, outside in published.items():
        container.with_bind_ports(inside, outside)
        if _is_local(engine):  # it knows all interfaces only; docker-py takes an address
            ports: dict[str, Any] = container.ports
            ports[str(inside)] = ("127.0.0.1", outside)
    return container


def _when_ready(
    service: Service, url: str, container: "DockerContainer", began: float
) -> Running | Absent:
    answers: list[str] = []
    reasons = ["it was not asked"]

    def ready() -> bool:
        try:
            answers.append(service.probe(url))
        except ProbeError as error:
            reasons.append(str(error))
            time.sleep(0.2)
        return bool(answers)

    if not wait_until(ready, READY_SECONDS):
        container.stop()
        return Absent("docker", f"not ready within {READY_SECONDS:.0f} s: {reasons[-1]}")
    return Running(
        service=service.name,
        url=url,
        lane="docker",
        version=answers[0],
        start_seconds=round(time.monotonic() - began, 3),
        container=container.get_container_id(),
    )


@contextmanager
def _without_reaper() -> Iterator[None]:
    """It needs an image of its own, and would end the container together with this process."""
    from testcontainers.core.config import testcontainers_config

    before = testcontainers_config.ryuk_disabled
    testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = before


def _is_local(engine: "DockerClient") -> bool:
    address = str(engine.client.api.base_url)
    return any(word in address for word in ("unix", "npipe", "localhost", "127.0.0.1"))
