"""PostgreSQL for tests: how it is asked, where it comes from, a database for each test."""

import asyncio
import re
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from eventbus.errors import ConfigurationError, MissingExtraError
from eventbus.testing.services.asking import apart
from eventbus.testing.services.postgres_cluster import Cluster, new_cluster, stop_cluster_in
from eventbus.testing.services.postgres_programs import (
    OLDEST,
    Programs,
    find_programs,
    install_programs,
)
from eventbus.testing.services.processes import identified
from eventbus.testing.services.service import (
    Absent,
    Container,
    ProbeError,
    Running,
    Say,
    without_password,
)

IMAGE = "postgres:17"
SETTINGS = {"max_connections": "200", "max_prepared_transactions": "0", "fsync": "on"}
_PASSWORD = "eventbus"  # noqa: S105  # of a throw-away container on loopback
_PROBE_SECONDS = 5.0
_DATABASE_SECONDS = 90.0
_DROP_SECONDS = 20.0  # it flushes every file of the server: on a slow disk that takes minutes


class Postgres:
    """The row `postgres` of the table of services."""

    name = "postgres"
    title = "PostgreSQL"
    enabled_by = (
        "python -m eventbus.testing.services up postgres | apt-get install postgresql | "
        "EVENTBUS_TEST_POSTGRES_URL=postgresql://user@host/postgres"
    )

    def probe(self, url: str) -> str:
        """The version, through a connection as the tests will open them."""
        return apart(_version(url))

    def container(self, host_port: int) -> Container:
        """The official image; it listens on TCP only after its own initialisation."""
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return Container(
            image=IMAGE,
            port=5432,
            environment={"POSTGRES_PASSWORD": _PASSWORD},
            command=("postgres", *options),
        )

    def container_url(self, host: str, host_port: int) -> str:
        """With the password that `container` sets."""
        return f"postgresql://postgres:{_PASSWORD}@{host}:{host_port}/postgres"

    def start(self, parent: Path, *, install: bool, say: Say) -> Running | Absent:
        """A new cluster on a free port of 127.0.0.1."""
        programs = programs_or_reason(install=install, say=say)
        if isinstance(programs, str):
            return Absent("native", programs)
        began = time.monotonic()
        cluster = new_cluster(programs, parent, SETTINGS)
        try:
            cluster.start()
        except BaseException:
            stop_cluster_in(cluster.directory)
            raise
        return running_cluster(cluster, programs, time.monotonic() - began)

    def stop(self, running: Running) -> None:
        """Only a postmaster of that very directory is ended."""
        if running.directory is not None:
            stop_cluster_in(Path(running.directory))


def programs_or_reason(*, install: bool, say: Say) -> Programs | str:
    """The newest installed, or those of a package installed now; or why there are none."""
    if sys.platform == "win32":
        return "PostgreSQL is not started on Windows"
    found = find_programs()
    if found is not None:
        return found
    if not install:
        return f"no PostgreSQL {OLDEST} or newer is installed (looked in the usual places and PATH)"
    return install_programs(say)


def running_cluster(cluster: Cluster, programs: Programs, start_seconds: float) -> Running:
    """What is written down of a started cluster."""
    return Running(
        service="postgres",
        url=cluster.url,
        lane="native",
        version=programs.version,
        start_seconds=round(start_seconds, 3),
        processes=(identified(cluster.pid),),
        directory=str(cluster.directory),
    )


def create_database(url: str) -> str:
    """A new, empty database on that server, for one test; its URL.

    Raises:
        ConfigurationError: EB1303, the server refuses.
    """
    name = f"t_{uuid.uuid4().hex}"
    _administer(url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def drop_database(url: str) -> None:
    """Drop what `create_database` made; connections to it are ended by the server.

    A server that has not done it within 20 s goes on with it: no test waits for its disk.

    Raises:
        ConfigurationError: EB1303, the server refuses.
    """
    parts = urlsplit(url)
    name = parts.path.removeprefix("/")
    _administer(
        urlunsplit(parts._replace(path="/postgres")),
        f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
        or_goes_on_after=_DROP_SECONDS,
    )


def _administer(url: str, statement: str, *, or_goes_on_after: float | None = None) -> None:
    try:
        apart(_execute(url, statement, or_goes_on_after or _DATABASE_SECONDS))
    except ProbeError as error:
        if or_goes_on_after and isinstance(error.__cause__, TimeoutError):
            return
        raise ConfigurationError(
            "EB1303",
            "PostgreSQL for tests refuses a database for a test",
            where=f"{without_password(url)}: {statement}",
            why=str(error),
            next="the user of the URL needs CREATEDB, and the database 'postgres' must exist",
        ) from error


async def _version(url: str) -> str:
    text = str(await _ask(url, "SHOW server_version", _PROBE_SECONDS))
    version = text.split(maxsplit=1)[0]
    major = re.match(r"\d+", version)
    if major is None or int(major.group()) < OLDEST:
        raise ProbeError(f"it is PostgreSQL {version}; these tests need {OLDEST} or newer")
    return version


async def _execute(url: str, statement: str, seconds: float) -> None:
    """Once nobody is in the way: PostgreSQL itself waits 5 s for those that it told to end."""
    in_use, until = _asyncpg().ObjectInUseError, time.monotonic() + seconds
    while True:
        try:
            await _ask(url, statement, seconds)
        except ProbeError as error:
            if not isinstance(error.__cause__, in_use) or time.monotonic() > until:
                raise
        else:
            return


async def _ask(url: str, statement: str, seconds: float) -> object:
    """The only value of the answer, None if there is none; late, the server goes on with it."""
    asyncpg = _asyncpg()
    try:
        async with asyncio.timeout(seconds):
            connection = await asyncpg.connect(url, timeout=seconds)
            asked = asyncio.create_task(connection.fetchval(statement), name="ask:postgres")
            try:
                return await asyncio.shield(asked)  # cancelled, the driver would cancel it there
            finally:
                connection.terminate()  # close() waits for the server without a deadline of ours
                await asyncio.wait([asked])
                if not asked.cancelled():
                    asked.exception()
    except TimeoutError as error:
        raise ProbeError(f"no answer within {seconds:.0f} s") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error


def _asyncpg() -> Any:
    try:
        import asyncpg
    except ImportError as error:
        raise MissingExtraError(
            "EB1005",
            "PostgreSQL for tests needs asyncpg",
            where="eventbus.testing.services",
            why="it is not installed here",
            next="pip install 'eventbus[postgres]'",
        ) from error
    return asyncpg
