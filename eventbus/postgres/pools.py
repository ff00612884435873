"""Connections with a deadline on everything: two pools, so that relays never wait for handlers."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg

from eventbus.postgres.config import PostgresConfig
from eventbus.postgres.failures import FAILURES, translated

log = logging.getLogger("eventbus.postgres")

Role = Literal["work", "control"]  # control: relays, leases, checks; never shared with handlers
CONTROL = 4
Connection = Any  # asyncpg's, or the pool's proxy of one


class Pools:
    """Opened when first used; a connection whose call was cut is thrown away (B8, X3, X7)."""

    def __init__(self, config: PostgresConfig) -> None:
        self.config = config
        self.trouble: str | None = None
        self.server: tuple[str, str] | None = None  # system identifier and timeline, at entering
        self._pools: dict[Role, asyncpg.Pool[Any]] = {}
        self._opening = asyncio.Lock()
        self._warned: set[int] = set()

    async def acquire(self, role: Role) -> Connection:
        """A connection, within the deadline.

        Raises:
            StorageError: EB5001 it cannot be reached, EB5007 all are taken.
        """
        try:
            pool = self._pools.get(role) or await self._open(role)
            connection = await pool.acquire(timeout=self.config.acquire_seconds)
        except FAILURES as error:
            failure = translated(error, f"{self.config.where}, pool {role}")
            self.trouble = failure.what
            raise failure from error
        self.trouble = None
        return connection

    async def release(self, role: Role, connection: Connection, *, whole: bool) -> None:
        """Give a connection back; one that is not whole is ended first. Never raises."""
        if not whole:
            connection.terminate()
        try:
            await self._pools[role].release(connection, timeout=5)
        except FAILURES as error:
            log.warning("a connection was not given back: %s", error)
            connection.terminate()

    @asynccontextmanager
    async def connection(self, role: Role = "control") -> AsyncIterator[Connection]:
        """A connection outside any transaction."""
        connection = await self.acquire(role)
        whole = False
        try:
            yield connection
            whole = True
        except FAILURES as error:
            raise translated(error, self.config.where) from error
        finally:
            await self.release(role, connection, whole=whole)

    async def connect(self, role: str) -> Connection:
        """A connection of its own, outside the pools."""
        try:
            return await asyncpg.connect(**self._options(role))
        except FAILURES as error:
            raise translated(error, f"{self.config.where}, {role}") from error

    async def close(self) -> None:
        """End all connections; what does not end in time is cut."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    def warned(self, connection: Connection) -> bool:
        """Whether the server warned on this connection since it was asked last (X12)."""
        pid = connection.get_server_pid()
        was = pid in self._warned
        self._warned.discard(pid)
        return was

    async def _open(self, role: Role) -> "asyncpg.Pool[Any]":
        async with self._opening:
            if role not in self._pools:
                self._pools[role] = await asyncpg.create_pool(
                    **self._options(role),
                    min_size=1,
                    max_size=self.config.pool if role == "work" else CONTROL,
                    init=self._init,
                    reset=_nothing_to_reset,
                )
            return self._pools[role]

    def _options(self, role: str) -> dict[str, Any]:
        name = f"eventbus/{self.config.service}/{role}"
        settings = {"application_name": name}
        if not self.config.pgbouncer:  # a pooler refuses start-up parameters it does not know
            settings |= {
                "statement_timeout": "8s",
                "lock_timeout": "5s",
                "idle_in_transaction_session_timeout": "45s",
                "jit": "off",
                "tcp_user_timeout": "10000",
                "tcp_keepalives_idle": "10",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
            }
        return {
            "dsn": self.config.dsn,
            "timeout": self.config.connect_seconds,
            "command_timeout": self.config.command_seconds,
            "server_settings": settings,
            "statement_cache_size": 0 if self.config.pgbouncer else 200,
        }

    async def _init(self, connection: Connection) -> None:
        connection.add_log_listener(self._note)

    def _note(self, connection: Connection, message: Any) -> None:
        if getattr(message, "sqlstate", "") == "01000":
            self._warned.add(connection.get_server_pid())


async def _nothing_to_reset(connection: Connection) -> None:
    """Our transactions leave no session state; the driver's own reset costs a round trip (X8)."""
