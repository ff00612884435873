"""One connection from BEGIN to COMMIT: sends BEGIN and savepoints when a statement needs them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from eventbus.errors import StorageError, UnsafeConfigurationError
from eventbus.message import Message
from eventbus.postgres.failures import FAILURES, is_cut, translated
from eventbus.postgres.fate import Fate
from eventbus.postgres.pools import Connection, Pools, Role, cut, is_gone
from eventbus.storage import Work
from eventbus.storage.abandoned import abandoned

log: logging.Logger = logging.getLogger("eventbus.postgres")
T = TypeVar("T")

ROLLBACK_SECONDS = 5.0


class Session:
    """What the sub-stores of a transaction share; used by one task at a time.

    A block that does nothing costs nothing: the connection comes with the first statement, BEGIN
    with the first one that is more than a look, a savepoint with the first statement inside it, in
    one round trip with the RELEASE before it.
    """

    def __init__(self, pools: Pools, schema: str, connection: Connection | None = None) -> None:
        self.pools = pools
        self.schema = schema
        self.open = True
        self.borrowed: bool = connection is not None  # the caller commits, or rolls back
        self.begun: bool = self.borrowed
        self.committed = False
        self.whole: bool = True  # False: cut in mid-statement, nobody may use the connection again
        self.outgoing: list[tuple[Message, timedelta | None]] = []
        self.hints: set[Work] = set()
        self.closing: set[tuple[str, str]] = set()  # (group, key) that a closing round holds
        self.ids: list[str] = []  # of messages, for who asks what became of the commit
        self.fate: Fate | None = None  # what an unknown commit is resolved by
        self.wrote: bool = False  # something that an unknown commit should be resolved for
        self.handed_out = False  # the application has the connection itself
        self.isolation: str | None = None  # of a caller's transaction, once asked
        self.connection = connection
        self.failed: StorageError | None = None
        self._failed_at = 0
        self._role: Role = "work"
        self._points: list[_Savepoint] = []
        self._unreleased: str | None = None
        self._numbered = 0

    async def look(
        self,
        statement: str,
        *args: Any,
        where: str,
        role: Role = "work",
        rows_as: type[Any] | None = None,
    ) -> list[Any]:
        """All rows of a read of ours that locks nothing: before BEGIN it sees the same.

        `rows_as`: a subclass of the driver's `Record`.
        """
        connection = await self._ready(role) if self.begun else await self._connected(role)
        return await self._rows(connection, statement, args, where, rows_as)

    async def fetch(self, statement: str, *args: Any, where: str, role: Role = "work") -> list[Any]:
        """All rows of a statement of ours."""
        return await self._rows(await self._ready(role), statement, args, where)

    async def execute(self, statement: str, *args: Any, where: str, role: Role = "work") -> str:
        """The command tag of a statement of ours."""
        connection = await self._ready(role)
        tag: str = await self.run(connection.execute, statement, *args, where=where)
        return tag

    def testify(self, row: Any) -> None:
        """Keep what a statement that wrote told of its transaction, and of its server."""
        if row["recovered"] is not None:
            self.pools.recoveries[row["recovered"]] = None
        if self.fate is None and row["xid"] is not None:
            self.fate = Fate(
                xid=int(row["xid"]), written=row["written"], recovered=row["recovered"]
            )

    async def raw(self) -> Connection:
        """The connection, with everything sent that is due, for statements of the application."""
        self.wrote = True
        return await self._ready("work")

    async def application_schema(self) -> str:
        """Where the application's tables stand; the same on every connection of the pools."""
        pools = self.pools
        if pools.application_schema is None:
            rows = await self.fetch("SELECT current_schema() AS s", where="projections")
            pools.application_schema = str(rows[0]["s"] or "public")
        return pools.application_schema

    async def run(
        self, call: Callable[..., Awaitable[T]], *args: Any, where: str, ours: bool = True
    ) -> T:
        """Call the driver, and await it.

        Raises:
            StorageError: the transaction, or its innermost savepoint, cannot go on.
        """
        try:
            return await call(*args)
        except asyncio.CancelledError as error:
            self.whole = False
            failure = translated(TimeoutError("cancelled in mid-statement"), where, cut=True)
            self._fail(failure)
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # nobody asked: the connection went (X22)
                raise failure from error
            raise
        except AttributeError as error:  # the driver's, cut between two steps of one call
            if self.whole:
                raise
            raise self.doomed() from error
        except FAILURES as error:
            gone = is_cut(error) or (self.connection is not None and is_gone(self.connection))
            self.whole = self.whole and not gone
            where = f"{where}, {self.pools.config.where}"
            failure = translated(error, where, ours=ours, cut=gone)
            self._fail(failure)
            self.pools.note(failure)
            raise failure from error

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """If the block raises, undo what it wrote, here and in the buffers."""
        return _Savepoint(self)

    @property
    def sent(self) -> bool:
        """Whether BEGIN and all savepoints are with the server."""
        return self.begun and all(point.name is not None for point in self._points)

    def check(self) -> None:
        """Refuse what cannot be kept any more.

        Raises:
            StorageError: EB5010, the block was left; EB5004, something in it had failed.
        """
        if not self.open:
            raise _over()
        if self.failed is not None:
            raise self.doomed()

    async def release_last(self) -> None:
        """End the savepoint that is still open although its block is left."""
        name, self._unreleased = self._unreleased, None
        if name is not None and self.connection is not None:
            release = f"RELEASE SAVEPOINT {name}"
            await self.run(self.connection.execute, release, where="RELEASE SAVEPOINT")

    async def end(self, *, roll_back: bool) -> None:
        """Give the connection back; what is open is rolled back. Raises only CancelledError.

        The error that led here is the one to see (X11).
        """
        connection, self.connection = self.connection, None
        if connection is None or self.borrowed:
            return
        try:
            if roll_back and self.whole and self.begun:
                self.whole = False  # until it is done
                async with asyncio.timeout(ROLLBACK_SECONDS):
                    await connection.execute("ROLLBACK")
                self.whole = True
        except FAILURES as error:
            log.warning("the server rolls back by itself, we could not: %s", error)
        finally:
            await self.pools.release(self._role, connection, whole=self.whole)

    def abandon(self) -> None:
        """Cut the connection, so that the server rolls back; the pool has its place again."""
        if not self.open:
            return  # it is over, or COMMIT is on its way
        self._fail(abandoned())
        if self.connection is not None and not self.borrowed:
            self.whole = False
            cut(self.connection)

    def doomed(self) -> StorageError:
        """The error of what comes after a failure."""
        first = self.failed
        error = StorageError(
            "EB5004",
            "the transaction is doomed: an earlier statement in it failed",
            where="a statement after the failed one, or the commit"
            if first is None
            else first.where,
            why="the server has rolled it back" if first is None else f"{first.what}: {first.why}",
            next="let the first error leave the block, or wrap what may fail in tx.savepoint()",
        )
        error.__cause__ = first
        return error

    async def _rows(
        self,
        connection: Connection,
        statement: str,
        args: Sequence[Any],
        where: str,
        rows_as: type[Any] | None = None,
    ) -> list[Any]:
        fetch = connection.fetch
        if rows_as is not None:
            fetch = partial(fetch, record_class=rows_as)
        rows: list[Any] = await self.run(fetch, statement, *args, where=where)
        return rows

    async def _connected(self, role: Role) -> Connection:
        self.check()
        if self.connection is None:
            self._role = role
            self.connection = await self.pools.acquire(role)
            self.check()  # it may have been given up meanwhile
        return self.connection

    async def _ready(self, role: Role) -> Connection:
        connection = await self._connected(role)
        if not self.begun:
            self.begun = True  # also if it fails: perhaps the server has begun
            await self.run(connection.execute, self.pools.begin, where="BEGIN")
            self.pools.note(None)
        unsent = [point for point in self._points if point.name is None]
        if unsent:
            await self._send(connection, unsent)
        return connection

    async def _send(self, connection: Connection, unsent: "Sequence[_Savepoint]") -> None:
        parts = []
        if self._unreleased is not None:
            parts.append(f"RELEASE SAVEPOINT {self._unreleased}")
            self._unreleased = None
        for point in unsent:
            self._numbered += 1
            point.name = f"eventbus_{self._numbered}"
            parts.append(f"SAVEPOINT {point.name}")
        await self.run(connection.execute, "; ".join(parts), where="SAVEPOINT")

    async def keep(self, point: "_Savepoint") -> None:
        """Its block is left; RELEASE goes out with what comes next."""
        if self.failed is not None and self._failed_at > point.depth:
            raise self.doomed()  # the block swallowed it: what it wrote cannot be kept
        if point.name is not None:
            self._unreleased = point.name
            if self.handed_out:  # perhaps it failed where we could not see it
                await self.release_last()
        self._points.remove(point)

    async def undo(self, point: "_Savepoint") -> None:
        """Its block raised."""
        del self.outgoing[point.outgoing :]
        self.hints, self.closing = point.hints, point.closing
        self._points.remove(point)
        await self._back_to(point)

    def enter(self, point: "_Savepoint") -> int:
        """Its block begins; how many there are outside of it."""
        self._points.append(point)
        return len(self._points) - 1

    async def _back_to(self, point: "_Savepoint") -> None:
        if not self.whole or self.connection is None:
            return
        if self._failed_at > point.depth:
            self.failed = None
        if point.name is None:
            return
        self._unreleased = None
        undo = f"ROLLBACK TO SAVEPOINT {point.name}; RELEASE SAVEPOINT {point.name}"
        try:
            await self.run(self.connection.execute, undo, where="ROLLBACK TO SAVEPOINT")
        except StorageError as error:
            log.warning("a savepoint could not be undone: %s", error)

    def _fail(self, failure: StorageError) -> None:
        self.failed = failure
        self._failed_at = len(self._points)


async def only_read_committed(session: Session, where: str) -> None:
    """Refuse a caller's transaction whose snapshot is older than what others have committed.

    Raises:
        UnsafeConfigurationError: EB5008.
    """
    if not session.borrowed or session.isolation == "read committed":
        return
    if session.isolation is None:
        rows = await session.fetch("SELECT current_setting('transaction_isolation')", where=where)
        session.isolation = str(rows[0][0])
    if session.isolation != "read committed":
        raise UnsafeConfigurationError(
            "EB5008",
            f"{where} needs READ COMMITTED",
            where=f"a joined transaction, {session.isolation.upper()}",
            why="it would not see which keys others hold, and which messages they have received",
            next="join a transaction that is READ COMMITTED, or leave this to the bus",
        )


class _Savepoint(AbstractAsyncContextManager[None]):
    """Written out, for each message has two: made of a generator it takes 8 times as long."""

    __slots__ = ("_session", "closing", "depth", "hints", "name", "outgoing")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.depth: int = 0  # points outside of it
        self.outgoing: int = 0  # messages that were buffered before it
        self.hints: set[Work] = set()
        self.closing: set[tuple[str, str]] = set()
        self.name: str | None = None  # None: not sent

    async def __aenter__(self) -> None:
        session = self._session
        self.depth = session.enter(self)
        self.outgoing = len(session.outgoing)
        self.hints = set(session.hints)
        self.closing = set(session.closing)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                await self._session.keep(self)
            except BaseException:
                await self._session.undo(self)
                raise
        else:
            await self._session.undo(self)


def _over() -> StorageError:
    return StorageError(
        "EB5010",
        "the transaction is over",
        where="a statement after the block of its transaction",
        why="it was committed or rolled back when the block was left",
        next="do it inside `async with storage.transaction()`",
    )
