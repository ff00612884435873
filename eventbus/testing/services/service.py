"""What the launcher must know of a service, and what it finds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from eventbus.errors import ConfigurationError
from eventbus.testing.services.processes import Process

Lane = Literal["environment", "docker", "native"]
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service that answered.

    What was started here names its processes and their directory, or its container.
    """

    service: str
    url: str
    lane: Lane
    version: str
    start_seconds: float = 0.0
    processes: tuple[Process, ...] = ()
    directory: str | None = None
    container: str | None = None

    def __str__(self) -> str:
        return f"{self.service} {self.version} ({self.lane}) {without_password(self.url)}"


@dataclass(frozen=True, slots=True)
class Absent:
    """A lane that does not give the service, and why: the next one is asked."""

    lane: Lane
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What to run in Docker, once the port on the host is known.

    Without a command the image's own is run; `beside` is a second port of the container, published
    10,000 above the first.
    """

    image: str
    port: int
    environment: Mapping[str, str]
    command: tuple[str, ...] = ()
    beside: int | None = None


class Service(Protocol):
    """One kind of service: a row in the table of `find.py`."""

    @property
    def name(self) -> str:
        """Its name in commands, options, variables and the state file."""
        ...

    @property
    def title(self) -> str:
        """Its name in sentences."""
        ...

    @property
    def enabled_by(self) -> str:
        """The commands that would make it available, for a person who misses it."""
        ...

    def probe(self, url: str) -> str:
        """Ask for the version, within 5 s; retries are the caller's.

        Raises:
            ProbeError: it did not answer, or is not what these tests can use.
        """
        ...

    def container(self, host_port: int) -> Container:
        """What to run; a broker advertises the port that clients see, so it is known first."""
        ...

    def container_url(self, host: str, host_port: int) -> str:
        """Where that container answers."""
        ...

    def start(self, parent: Path, *, install: bool, say: Say) -> Running | Absent:
        """Start native processes in a new directory, below `parent` where that is possible.

        Raises:
            ConfigurationError: EB1303, it is installed here and does not start.
        """
        ...

    def stop(self, running: Running) -> None:
        """End what `start` started and remove its directory; nothing if it is gone already."""
        ...


class ProbeError(Exception):
    """It did not answer; the text says why."""


class ServiceMissingError(ConfigurationError):
    """No lane gives the service: do what `next` says. Tests are skipped, in CI they fail."""


def variable(name: str, what: Literal["URL", "IMAGE"] = "URL") -> str:
    """The environment variable that decides about a service."""
    return f"EVENTBUS_TEST_{name.upper()}_{what}"


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
