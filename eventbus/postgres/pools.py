"""Connections with a deadline on everything: two pools, so that relays never wait for handlers."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import asyncpg

from eventbus.errors import StorageError
from eventbus.postgres.config import PostgresConfig
from eventbus.postgres.failures import FAILURES, AllTakenError, is_cut, translated
from eventbus.postgres.kept import KeptConnections
from eventbus.postgres.known_types import KnownTypes, connection_class

log: logging.Logger = logging.getLogger("eventbus.postgres")

# control: relays, leases, checks; never shared with handlers. append: one-shot appends, which keep
# their connections.
Role = Literal["work", "control", "append"]
CONTROL = 4
RELEASE_SECONDS = 5.0
UPGRADE_SECONDS = 3600.0  # one file; an index on a large table takes its time
Connection = Any  # asyncpg's, or the pool's proxy of one

_TROUBLE = frozenset({"EB5001", "EB5006", "EB5007", "EB5012", "EB5013", "EB5302"})
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# Of a standby it says how far it has come: nothing that ended.
_RECOVERED = "SELECT pg_last_wal_replay_lsn()::text WHERE NOT pg_is_in_recovery()"
_SETTINGS = {
    "jit": "off",
    # of statements that are their own transaction; under another level who loses fails (40001)
    "default_transaction_isolation": "read committed",
    "client_connection_check_interval": "1s",  # a client that is gone holds its locks no longer
    "tcp_user_timeout": "10000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
# What relays send goes by an index, always: statistics of a queue are old when they are taken,
# and a plan that was made when it was short reads all of it when it is long.
_BY_INDEX = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_generic_plan",
}


class Pools:
    """Opened when first used; a connection whose call was cut is thrown away (B8, X3, X7)."""

    def __init__(self, config: PostgresConfig) -> None:
        self.config = config
        self.trouble: str | None = None
        self.server: tuple[str, str] | None = None  # system identifier and timeline, at entering
        self.recoveries: dict[str, None] = {}  # where crash recoveries ended that it was told of
        self.application_schema: str | None = None  # where read models stand, once asked
        self.begin: str = _begin(config)
        self._pools: dict[Role, asyncpg.Pool[Any]] = {}
        self._opening = asyncio.Lock()
        self._connection_class = connection_class(KnownTypes(config.schema))
        self._appending = KeptConnections(self._for_append, is_gone=is_gone, cut=cut)

    async def acquire(self, role: Role) -> Connection:
        """A connection, within the deadline.

        Raises:
            StorageError: EB5001 it cannot be reached, EB5007 all are taken.
        """
        if role == "append":
            return await self._appending.take()
        try:
            pool = self._pools.get(role)
            if pool is None or not (pool.get_idle_size() or pool.get_size() == pool.get_max_size()):
                return await self._acquire_new(role)
            return await pool.acquire(timeout=self.config.acquire_seconds)
        except FAILURES as error:
            failure = self._not_acquired(role, error)
            self.note(failure)
            raise failure from error

    def _not_acquired(self, role: Role, error: Exception) -> StorageError:
        pool = self._pools.get(role)
        late = isinstance(error, TimeoutError)
        if late and pool is not None and pool.get_size() == pool.get_max_size():
            error = AllTakenError(pool.get_max_size(), self.config.acquire_seconds)
        return translated(error, f"{self.config.where}, pool of {role}", cut=not late)

    async def release(self, role: Role, connection: Connection, *, whole: bool) -> None:
        """Give a connection back; one that is not whole is ended first. Never raises."""
        if role == "append":
            self._appending.give(connection, whole=whole)
            return
        if not whole:
            cut(connection)
        pool = self._pools.get(role)
        if pool is None:  # closed meanwhile
            cut(connection)
            return
        try:
            await pool.release(connection, timeout=RELEASE_SECONDS)
        except FAILURES as error:
            if is_gone(connection):  # its pool took it back itself, when it was lost
                return
            log.warning("a connection was not given back: %s", error)

    @asynccontextmanager
    async def connecting(self, role: Role = "control") -> AsyncIterator[Connection]:
        """A connection outside any transaction."""
        connection = await self.acquire(role)
        whole = False
        try:
            yield connection
            whole = True
        except FAILURES as error:
            gone = is_gone(connection)
            whole = not (gone or is_cut(error) or connection.is_in_transaction())
            failure = translated(error, self.config.where, cut=gone)
            self.note(failure)
            raise failure from error
        finally:
            await self.release(role, connection, whole=whole)

    async def connect(self, role: str) -> Connection:
        """A connection of its own, outside the pools; cancelled, it ends within `connect_seconds`.

        The driver, cancelled while it connects, may leave a future behind that nobody can ask.
        """
        connecting = asyncio.create_task(self._connect(role), name=f"connect:{role}")
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            with suppress(StorageError):
                cut(await connecting)
            raise

    async def _acquire_new(self, role: Role) -> Connection:
        """One that its pool has to connect first: not cut in the middle either."""
        acquiring = asyncio.create_task(self._acquire(role), name=f"acquire:{role}")
        try:
            return await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            with suppress(*FAILURES):
                async with asyncio.timeout(self.config.connect_seconds):
                    await self.release(role, await acquiring, whole=True)
            raise

    async def _acquire(self, role: Role) -> Connection:
        pool = self._pools.get(role) or await self._open(role)
        return await pool.acquire(timeout=self.config.acquire_seconds)

    async def _connect(self, role: str) -> Connection:
        try:
            return await asyncpg.connect(**self._options(role))
        except FAILURES as error:
            where = f"{self.config.where}, {role}"
            raise translated(error, where, cut=not isinstance(error, TimeoutError)) from error

    async def close(self) -> None:
        """End all connections; what does not end in time is cut."""
        self._appending.close()
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            try:
                async with asyncio.timeout(RELEASE_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    def note(self, failure: StorageError | None) -> None:
        """Remember why nothing can be done at the moment, or that something could."""
        if failure is None:
            self.trouble = None
        elif failure.code in _TROUBLE:
            self.trouble = f"{failure.what}: {failure.why}"

    def size(self) -> int:
        """Connections that the pools have, and those that are idle: equal at rest."""
        return sum(pool.get_size() for pool in self._pools.values())

    def idle(self) -> int:
        """Connections that nobody uses."""
        return sum(pool.get_idle_size() for pool in self._pools.values())

    async def _for_append(self) -> Connection:
        try:
            connection = await self.connect("append")
        except StorageError as error:
            self.note(error)
            raise
        self.note(None)
        return connection

    async def _open(self, role: Role) -> "asyncpg.Pool[Any]":
        async with self._opening:
            if role not in self._pools:
                self._pools[role] = await asyncpg.create_pool(
                    **self._options(role),
                    min_size=0,  # or the driver connects by itself, and logs a traceback each time
                    max_size=self.config.pool if role == "work" else CONTROL,
                    init=self._look_back,
                    reset=_nothing_to_reset,
                )
            return self._pools[role]

    async def _look_back(self, connection: Connection) -> None:
        """A crash ends all connections: each new one asks, for after the next crash none can."""
        end = await connection.fetchval(_RECOVERED)
        if end is not None:
            self.recoveries[end] = None

    def _options(self, role: str) -> dict[str, Any]:
        settings = {"application_name": f"eventbus/{self.config.service}/{role}"}
        if not self.config.pgbouncer:  # a pooler refuses start-up parameters it does not know
            settings |= (
                _timeouts(self.config) | _SETTINGS | (_BY_INDEX if role == "control" else {})
            )
        options: dict[str, Any] = {
            "dsn": self.config.dsn,
            "timeout": self.config.connect_seconds,
            "command_timeout": self.config.command_seconds,
            "server_settings": settings,
            "connection_class": self._connection_class,
            "statement_cache_size": 0 if self.config.pgbouncer else 200,
        }
        if self.config.several_hosts:
            options["target_session_attrs"] = "primary"
        if role == "upgrade":
            settings.pop("statement_timeout", None)
            options["command_timeout"] = UPGRADE_SECONDS
        return options


def is_gone(connection: Connection) -> bool:
    """Whether nothing can be sent any more."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # it was lost, and its pool has taken the proxy back
        return True


def cut(connection: Connection) -> None:
    """End it at once: close() would wait for a server that is away (X3)."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _timeouts(config: PostgresConfig) -> dict[str, str]:
    return {
        "statement_timeout": "8s",  # below command_timeout: a server that lives answers (X1)
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": f"{config.idle_seconds}s",
    }


def _begin(config: PostgresConfig) -> str:
    """Behind a pooler the timeouts come with the transaction: its connection is anybody's (X10)."""
    if not config.pgbouncer:
        return _BEGIN
    local = [f"SET LOCAL {name} = '{value}'" for name, value in _timeouts(config).items()]
    return "; ".join([_BEGIN, *local])


async def _nothing_to_reset(connection: Connection) -> None:
    """Our transactions leave no session state; the driver's own reset costs a round trip (X8)."""
