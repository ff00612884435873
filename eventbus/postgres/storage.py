"""PostgresStorage: pools, transactions, the caller's transaction, schema, hints."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from eventbus.errors import Finding
from eventbus.postgres import retention, sqlalchemy
from eventbus.postgres.appends import Appends
from eventbus.postgres.config import PostgresConfig, config_of
from eventbus.postgres.examination import findings, require_primary
from eventbus.postgres.feed import read_bound
from eventbus.postgres.inspection import PostgresInspection
from eventbus.postgres.loading import load
from eventbus.postgres.pools import Pools
from eventbus.postgres.session import Session
from eventbus.postgres.transaction import Entry, PostgresTransaction
from eventbus.postgres.upgrade import require_current, upgrade
from eventbus.postgres.wakeups import Wakeups
from eventbus.storage import StorageCapabilities, Work
from eventbus.storage.events import Append, Appended, ReadBound
from eventbus.storage.merging import Merging
from eventbus.storage.nesting import refuse_nested

APPENDING = 2  # connections of merged appends
LATE_HINT_SECONDS = 0.05  # an asyncpg caller commits after our block: hint again then


class PostgresStorage:
    """A schema in a PostgreSQL database, shared by any number of processes.

    Entering checks the schema and names the command that upgrades it. Several buses of a process
    may share one: whoever leaves last closes its connections. Transactions are READ COMMITTED,
    always: held keys and every re-check of a row lock need a fresh snapshot.

    Args:
        config: where it is, and how it is used.
    """

    def __init__(self, config: PostgresConfig) -> None:
        self.config: PostgresConfig = config
        self.pools: Pools = Pools(config)
        self.wakeups: Wakeups = Wakeups(self.pools, config.schema)
        appends = Appends(
            self._session, self.transaction, pooled=config.pgbouncer, hint=self.wakeups.hint
        )
        self._merging = Merging(appends.write, lanes=APPENDING, direct=True)
        self._late: set[asyncio.TimerHandle] = set()
        self._inside: int = 0  # entered so often, and not left yet
        self._door = asyncio.Lock()

    async def __aenter__(self) -> "PostgresStorage":
        async with self._door:
            if not self._inside:
                await self._open()
            self._inside += 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._door:
            self._inside -= 1
            if not self._inside:
                await self._close()

    async def _open(self) -> None:
        try:
            async with self.pools.connecting() as connection:
                self.pools.server = await require_primary(connection, self.config.where)
                await require_current(connection, self.config)
        except BaseException:
            await self.pools.close()
            raise
        self.wakeups.start()

    async def _close(self) -> None:
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        await self._merging.finish()
        await self.wakeups.stop()
        await self.pools.close()

    def _session(self) -> Session:
        return Session(self.pools, self.config.schema)

    @property
    def capabilities(self) -> StorageCapabilities:
        """Durable, shared by processes, on a server."""
        idle = timedelta(seconds=self.config.idle_seconds)
        return StorageCapabilities(durable=True, shared=True, distant=True, longest_idle=idle)

    @property
    def trouble(self) -> str | None:
        """Why it can do nothing at the moment."""
        return self.pools.trouble

    @property
    def inspection(self) -> PostgresInspection:
        """What operators may look at and put right."""
        return PostgresInspection(self.pools, self.config.schema, self.wakeups.hint)

    def transaction(self) -> AbstractAsyncContextManager[PostgresTransaction]:
        """A transaction of its own; connection and BEGIN come with the first statement."""
        return Entry(self, self._session(), self.wakeups.hint)

    @asynccontextmanager
    async def enlist(self, connection: object) -> AsyncIterator[PostgresTransaction]:
        """Join the caller's transaction: asyncpg's connection, AsyncSession, AsyncConnection.

        Leave the block last, just before your commit: the outbox rows are written on leaving. A
        savepoint of yours that is rolled back later takes them with it.

        Raises:
            UnsafeConfigurationError: EB5008, it is in no transaction, or of another kind.
        """
        raw, resources = await _joined(connection)
        session = Session(self.pools, self.config.schema, raw)
        async with Entry(self, session, _no_hint, resources) as tx:
            yield tx
            await sqlalchemy.flush(resources)
        self._hint_after_commit(session, resources)

    async def append(self, append: Append) -> Appended:
        """Append in a commit of its own, merged with those of other tasks that wait (S5).

        Raises:
            ConcurrencyError, StreamClosedError, StorageError: nothing was written.
            CommitUnknownError: perhaps it stands there; the same ids again settle it.
        """
        refuse_nested(self)
        return await self._merging.append(append)

    async def load_events(self, appends: Sequence[Append], *, skip: bool = False) -> int:
        """Bulk load by COPY.

        Raises:
            ConcurrencyError: EB5003, a stream exists; nothing was written.
            StorageError: EB5015, the arguments, or a stream is there twice.
        """
        async with self.transaction() as tx:
            return await load(tx.session, appends, skip=skip)

    async def read_bound(self) -> ReadBound:
        """How far the feed can be read at this moment; changes nothing, and begins nothing."""
        session = self._session()
        try:
            return await read_bound(session)
        finally:
            await session.end(roll_back=False)

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Until a hint, or that long."""
        await self.wakeups.wait(work, at_most)

    async def upgrade(self) -> None:
        """Apply pending migrations, under a lock."""
        connection = await self.pools.connect("upgrade")
        try:
            await upgrade(connection, self.config.schema, self.config.where)
        finally:
            connection.terminate()

    async def prune(self, *, inbox: timedelta, limit: int) -> int:
        """Delete what nobody needs any more, and make the partitions of the days ahead."""
        async with self.pools.connecting() as connection:
            return await retention.prune(connection, self.config.schema, inbox=inbox, limit=limit)

    async def examine(self) -> Sequence[Finding]:
        """What settings of the server and configuration mean for the promises."""
        return await findings(self.pools)

    def _hint_after_commit(self, session: Session, resources: Mapping[type, Any]) -> None:
        def hint() -> None:
            for work in session.hints:
                self.wakeups.hint(work)

        if session.hints and not sqlalchemy.after_commit(resources, hint):
            hint()
            self._soon(hint)

    def _soon(self, call: Callable[[], None]) -> None:
        def late() -> None:
            self._late.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(LATE_HINT_SECONDS, late)
        self._late.add(timer)


def open_storage(url: str, service: str) -> PostgresStorage:
    """The storage of a URL `postgresql://…?schema=…&pool=…&pgbouncer=true`; connects to nothing."""
    return PostgresStorage(config_of(url, service))


async def _joined(given: Any) -> tuple[Any, Mapping[type, Any]]:
    joined = await sqlalchemy.driver_connection(given)
    if joined is not None:
        return joined
    if not hasattr(given, "is_in_transaction"):
        raise sqlalchemy.not_accepted(f"{type(given).__name__} is none of these")
    if not given.is_in_transaction():
        raise sqlalchemy.not_accepted("it is in no transaction: each statement would commit")
    return given, {}


def _no_hint(work: Work) -> None:
    """The caller has not committed yet."""
