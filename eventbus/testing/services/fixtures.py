"""Fixtures, options and lines of output for real services; plugin.py registers this module.

Imported in every pytest run: everything but pytest and the standard library inside functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from eventbus.errors import EventBusError
    from eventbus.testing.services.processes import Process
    from eventbus.testing.services.service import Running

NAMES = (
    "postgres",
    "rabbit",
    "kafka",
)  # equal to the table of services, which is not imported here
_FIXTURES = {
    "postgres_url": "postgres",
    "rabbit_url": "rabbit",
    "kafka_url": "kafka",
    "kafka_prefix": "kafka",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which services must be there."""
    parser.getgroup("eventbus").addoption(
        "--eventbus-require",
        metavar="SERVICE,…",
        default="",
        help=f"services that must be found ({','.join(NAMES)}): installed if possible, and tests "
        "fail where they would be skipped without them; so they do with CI=true",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; nothing is looked for before a test wants it.

    Raises:
        pytest.UsageError: a service is required that nobody knows.
    """
    for name in NAMES:
        config.addinivalue_line("markers", f"{name}: needs a real service; set by its fixture")
    discovery = Discovery(config)
    unknown = discovery.required - set(NAMES)
    if unknown:
        raise pytest.UsageError(
            f"--eventbus-require={','.join(sorted(unknown))}: there is {', '.join(NAMES)}"
        )
    config.stash[_DISCOVERY] = discovery


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what uses a service, so that `-m "not postgres"` leaves it out."""
    for fixture in getattr(item, "fixturenames", ()):
        if fixture in _FIXTURES:
            item.add_marker(_FIXTURES[fixture])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Workers of xdist use services in the name of the run: it ends them when all are done."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist is not installed for sure
    discovery = config.stash[_DISCOVERY]
    discovery.distributed = True
    node.workerinput[_RUN] = [discovery.run.pid, discovery.run.born]  # type: ignore[attr-defined]  # same


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What is required, runs already, or stands in the environment; else it starts at first use."""
    discovery = config.stash[_DISCOVERY]
    lines = [line for name in NAMES if (line := discovery.header(name)) is not None]
    return [f"eventbus services: {', '.join(lines)}"] if lines else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests used."""
    for running in terminalreporter.config.stash[_DISCOVERY].used():
        started = f", started in {running.start_seconds:.2f} s" if running.start_seconds else ""
        terminalreporter.write_line(f"eventbus services: {running}{started}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what this run started and nobody else uses."""
    discovery = config.stash.get(_DISCOVERY, None)
    if discovery is not None:
        discovery.release()


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new, empty database of this test on a real PostgreSQL; dropped afterwards.

    The server comes from EVENTBUS_TEST_POSTGRES_URL, Docker or native processes. Without one the
    test is skipped with the reason; under CI=true or --eventbus-require=postgres it fails.
    """
    running = request.config.stash[_DISCOVERY].find("postgres")
    from eventbus.testing.services.postgres import create_database, drop_database

    url = create_database(running.url)
    yield url
    drop_database(url)


@pytest.fixture
def rabbit_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new, empty vhost of this test on a real RabbitMQ; deleted afterwards.

    The broker is found, and missed, as `postgres_url` says.
    """
    running = request.config.stash[_DISCOVERY].find("rabbit")
    from eventbus.testing.services.rabbitmq import create_vhost, delete_vhost

    url = create_vhost(running.url)
    yield url
    delete_vhost(url)


@pytest.fixture
def kafka_url(request: pytest.FixtureRequest) -> str:
    """A real Kafka, found and missed as `postgres_url` says; all tests share its topics.

    Topics are not created by themselves. Names begin with `kafka_prefix`.
    """
    running: Running = request.config.stash[_DISCOVERY].find("kafka")
    return running.url


@pytest.fixture
def kafka_prefix(kafka_url: str) -> Iterator[str]:
    """How this test's topics and groups begin; such topics are deleted afterwards."""
    from eventbus.testing.services.kafka import delete_topics, new_prefix

    prefix = new_prefix()
    yield prefix
    delete_topics(kafka_url, prefix)


class Discovery:
    """What one process of a run has found; each service is looked for once."""

    def __init__(self, config: pytest.Config) -> None:
        self.distributed = False
        self.required: frozenset[str] = frozenset(
            filter(None, config.getoption("--eventbus-require").split(","))
        )
        self._worker: list[object] | None = getattr(config, "workerinput", {}).get(_RUN)
        self._found: dict[str, Running | EventBusError] = {}
        self._began_in = Path.cwd()
        self._services_dir = os.environ.get(_SERVICES_DIR)

    @property
    def run(self) -> Process:
        """The process whose end ends the use: this one, or the one that started its workers."""
        from eventbus.testing.services.processes import Process, this_process

        if self._worker is None:
            return this_process()
        pid, born = self._worker
        return Process(int(str(pid)), str(born))

    def find(self, name: str) -> Running:
        """The service; without it the test is skipped or fails, and so does every later one."""
        from eventbus.errors import EventBusError
        from eventbus.testing.services.service import ServiceMissingError

        found = self._look(name)
        if not isinstance(found, EventBusError):
            return found
        if isinstance(found, ServiceMissingError) and not self._must_be(name):
            pytest.skip(" ".join(str(found).split()))
        pytest.fail(str(found), pytrace=False)

    def header(self, name: str) -> str | None:
        """A word on a service before any test runs; None if there is nothing to say yet."""
        from eventbus.errors import EventBusError
        from eventbus.testing.services.state import state_of_this_checkout

        if name in self.required or os.environ.get(f"EVENTBUS_TEST_{name.upper()}_URL"):
            found = self._look(name)
            return f"no {name}: {found.what}" if isinstance(found, EventBusError) else str(found)
        try:
            entry = state_of_this_checkout().read().get(name)
        except EventBusError as error:
            return f"{name}: {error.what}"
        return None if entry is None or not entry.wanted else f"{entry.running}, runs already"

    def used(self) -> list[Running]:
        """What was found here, and what workers wrote down in the name of this run."""
        from eventbus.errors import EventBusError

        found = {n: r for n, r in self._found.items() if not isinstance(r, EventBusError)}
        if self.distributed:
            from eventbus.testing.services.find import status

            found |= {n: e.running for n, e in status().items() if self.run in e.users}
        return list(found.values())

    def release(self) -> None:
        """A worker leaves that to the run."""
        if self._worker is None and (self._found or self.distributed):
            from eventbus.testing.services.find import release

            with self._where_it_began():
                release(self.run)

    @contextmanager
    def _where_it_began(self) -> Iterator[None]:
        """One state for the whole run, though a test changed the directory or the environment."""
        now = os.environ.pop(_SERVICES_DIR, None)
        if self._services_dir is not None:
            os.environ[_SERVICES_DIR] = self._services_dir
        try:
            with chdir(self._began_in):
                yield
        finally:
            os.environ.pop(_SERVICES_DIR, None)
            if now is not None:
                os.environ[_SERVICES_DIR] = now

    def _must_be(self, name: str) -> bool:
        return name in self.required or os.environ.get("CI", "").lower() in ("true", "1")

    def _look(self, name: str) -> Running | EventBusError:
        if name not in self._found:
            from eventbus.errors import EventBusError
            from eventbus.testing.services.find import acquire

            try:
                with self._where_it_began():
                    found = acquire(name, self.run, install=self._must_be(name))
            except EventBusError as error:
                self._found[name] = error
            else:
                self._found[name] = found
        return self._found[name]


_DISCOVERY = pytest.StashKey[Discovery]()
_RUN = "eventbus_run"
_SERVICES_DIR = "EVENTBUS_TEST_SERVICES_DIR"  # as in state.py, which is imported at first use
