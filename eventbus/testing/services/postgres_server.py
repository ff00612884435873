"""A PostgreSQL for one test, to be broken on purpose."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from eventbus.testing.services.postgres import (
    SETTINGS,
    Postgres,
    programs_or_reason,
    running_cluster,
)
from eventbus.testing.services.postgres_cluster import Cluster, Mode, new_cluster, stop_cluster_in
from eventbus.testing.services.postgres_programs import Programs
from eventbus.testing.services.service import ServiceMissingError
from eventbus.testing.services.state import (
    forget_private,
    note_private,
    state_of_this_checkout,
)


@asynccontextmanager
async def private_postgres(
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator["PostgresServer"]:
    """A native server of the caller's own, started; gone with its data after the block.

    If this process is killed, the next one that looks for services ends it.

    Args:
        settings: lines of `postgresql.conf`, over those of the shared server; `fsync` is on
            unless it is said here.

    Raises:
        ServiceMissingError: EB1302, its programs are not installed; a container is no help here.
        ConfigurationError: EB1303, it does not start.
    """
    server = await asyncio.to_thread(PostgresServer.create, settings or {})
    try:
        await server.start()
        yield server
    finally:
        await asyncio.shield(asyncio.create_task(server.remove(), name="postgres:remove"))


class PostgresServer:
    """A server and what may happen to it; on return of a call, it has happened.

    Calls take turns. The loop goes on meanwhile: clients under test see each step.
    """

    def __init__(self, cluster: Cluster, programs: Programs) -> None:
        self._cluster = cluster
        self._programs = programs
        self._name = f"postgres:private:{uuid.uuid4().hex[:8]}"

    @classmethod
    def create(cls, settings: Mapping[str, str]) -> Self:
        """A data directory, no server yet; blocks .5 s. Raises as `private_postgres` does."""
        programs = programs_or_reason(install=False, say=lambda text: None)
        if isinstance(programs, str):
            raise ServiceMissingError(
                "EB1302",
                "no PostgreSQL that a test may break",
                where="private_postgres",
                why=programs,
                next=Postgres.enabled_by.rpartition(" | ")[0],
            )
        parent = state_of_this_checkout().directory
        return cls(new_cluster(programs, parent, {**SETTINGS, **settings}), programs)

    @property
    def url(self) -> str:
        """Of the database `postgres`; it stays the same over restarts."""
        return self._cluster.url

    @property
    def pid(self) -> int:
        """The postmaster's; 0 if it does not run."""
        return self._cluster.pid

    @property
    def directory(self) -> Path:
        """Holds `data` and `log`."""
        return self._cluster.directory

    @property
    def settings(self) -> dict[str, str]:
        """Lines of `postgresql.conf`; what is changed here counts from the next start."""
        return self._cluster.settings

    async def start(self) -> None:
        """Start it, and wait until it takes connections; recovers if it was killed.

        Raises:
            ConfigurationError: EB1303, it did not start within 60 s.
        """
        await asyncio.to_thread(self._start)

    async def stop(self, mode: Mode = "fast") -> None:
        """Stop it: `fast` with a checkpoint, `immediate` as a crash. Nothing if it is down.

        Raises:
            ConfigurationError: EB1303, it still runs after 30 s.
        """
        await asyncio.to_thread(self._cluster.stop, mode)

    async def restart(self, mode: Mode = "fast") -> None:
        """Stop and start; raises as they do."""
        await self.stop(mode)
        await self.start()

    async def kill(self) -> None:
        """SIGKILL to the postmaster and its children."""
        await asyncio.to_thread(self._cluster.kill)

    async def freeze(self) -> None:
        """SIGSTOP to all of it: nothing is answered, no connection breaks."""
        await asyncio.to_thread(self._cluster.freeze)

    async def thaw(self) -> None:
        """SIGCONT to all of it."""
        await asyncio.to_thread(self._cluster.thaw)

    async def remove(self) -> None:
        """End it and delete its data."""
        await asyncio.to_thread(self._remove)

    def _start(self) -> None:
        began = time.monotonic()
        self._cluster.start()
        seconds = time.monotonic() - began
        note_private(self._name, running_cluster(self._cluster, self._programs, seconds))

    def _remove(self) -> None:
        stop_cluster_in(self._cluster.directory)
        forget_private(self._name)
