"""PostgresStorage: pools, transactions, the caller's transaction, schema, hints."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from eventbus.errors import Finding, UnsafeConfigurationError
from eventbus.postgres import retention, sqlalchemy
from eventbus.postgres.config import PostgresConfig, config_of
from eventbus.postgres.examination import findings
from eventbus.postgres.fate import SERVER
from eventbus.postgres.inspection import PostgresInspection
from eventbus.postgres.outbox import flush
from eventbus.postgres.pools import Pools
from eventbus.postgres.session import Session
from eventbus.postgres.transaction import Entry, PostgresTransaction
from eventbus.postgres.upgrade import require_current, upgrade
from eventbus.postgres.wakeups import Wakeups
from eventbus.storage import StorageCapabilities, Transaction, Work

_LATE_HINT_SECONDS = 0.05  # the caller commits after our block: hint again then


class PostgresStorage:
    """A schema in a PostgreSQL database, shared by any number of processes.

    Entering checks the schema and names the command that upgrades it. Transactions are READ
    COMMITTED, always: held keys and every re-check of a row lock need a fresh snapshot.

    Args:
        config: where it is, and how it is used.
    """

    def __init__(self, config: PostgresConfig) -> None:
        self.config = config
        self._pools = Pools(config)
        self._wakeups = Wakeups(self._pools, config.schema)
        self._late: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> "PostgresStorage":
        async with self._pools.connection() as connection:
            await require_current(connection, self.config.schema, self.config.where)
            row = await connection.fetchrow(SERVER)
            self._pools.server = (row["system"], row["timeline"])
        self._wakeups.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        await self._wakeups.stop()
        await self._pools.close()

    @property
    def capabilities(self) -> StorageCapabilities:
        """Durable, and shared by processes."""
        return StorageCapabilities(durable=True, shared=True)

    @property
    def trouble(self) -> str | None:
        """Why it can do nothing at the moment."""
        return self._pools.trouble

    @property
    def inspection(self) -> PostgresInspection:
        """What operators may look at and put right."""
        return PostgresInspection(self._pools, self.config.schema, self._wakeups.hint)

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction of its own; connection and BEGIN come with the first statement."""
        return Entry(self, self._session())

    @asynccontextmanager
    async def enlist(self, connection: object) -> AsyncIterator[PostgresTransaction]:
        """Join the caller's transaction: asyncpg's connection, AsyncSession, AsyncConnection.

        Leave the block last, just before your commit: the outbox rows are written on leaving.

        Raises:
            UnsafeConfigurationError: EB5008, what was given is in no transaction, or is another kind.
        """
        raw, resources = await self._joined(connection)
        session = Session.borrowed(
            self._pools, self.config.schema, raw, hint=self._wakeups.hint, flush=flush
        )
        async with Entry(self, session, resources) as tx:
            yield tx
            await sqlalchemy.flush(resources)
        self._hint_after_commit(session, resources)

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Until a hint, or that long."""
        await self._wakeups.wait(work, at_most)

    async def upgrade(self) -> None:
        """Apply pending migrations, under a lock."""
        connection = await self._pools.connect("upgrade")
        try:
            await upgrade(connection, self.config.schema, self.config.where)
        finally:
            connection.terminate()

    async def prune(self, *, inbox: timedelta, limit: int) -> int:
        """Delete what nobody needs any more, and make the partitions of the days ahead."""
        async with self._pools.connection() as connection:
            return await retention.prune(connection, self.config.schema, inbox=inbox, limit=limit)

    async def examine(self) -> Sequence[Finding]:
        """What settings of the server and configuration mean for the promises."""
        return await findings(self._pools)

    def _session(self) -> Session:
        return Session(self._pools, self.config.schema, hint=self._wakeups.hint, flush=flush)

    async def _joined(self, given: Any) -> tuple[Any, dict[type, Any]]:
        joined = await sqlalchemy.driver_connection(given)
        if joined is not None:
            return joined
        if not hasattr(given, "is_in_transaction"):
            raise _not_accepted(f"{type(given).__name__} is neither")
        if not given.is_in_transaction():
            raise _not_accepted("the connection is in no transaction: each statement would commit")
        return given, {}

    def _hint_after_commit(self, session: Session, resources: dict[type, Any]) -> None:
        def hint() -> None:
            for work in session.hints:
                self._wakeups.hint(work)

        if resources and sqlalchemy.after_commit(resources, hint):
            return
        loop = asyncio.get_running_loop()

        def late() -> None:
            self._late.discard(timer)
            hint()

        timer = loop.call_later(_LATE_HINT_SECONDS, late)
        self._late.add(timer)


def open_storage(url: str, service: str) -> PostgresStorage:
    """The storage of a URL `postgresql://…?schema=…&pool=…&pgbouncer=true`; connects to nothing."""
    return PostgresStorage(config_of(url, service))


def _not_accepted(why: str) -> UnsafeConfigurationError:
    return UnsafeConfigurationError(
        "EB5008",
        "the transaction cannot be joined",
        where="bus.transaction(connection)",
        why=why,
        next="hand over an asyncpg connection, AsyncSession or AsyncConnection in a transaction",
    )
