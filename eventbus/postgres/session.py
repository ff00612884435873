"""One connection from BEGIN to COMMIT: sends BEGIN and savepoints when a statement needs them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Literal

import asyncpg

from eventbus.errors import CommitUnknownError, StorageError
from eventbus.message import Message
from eventbus.postgres.failures import FAILURES, sqlstate_of, translated
from eventbus.postgres.fate import Fate
from eventbus.postgres.pools import Connection, Pools, Role
from eventbus.storage import Work

log = logging.getLogger("eventbus.postgres")


class Session:
    """What the sub-stores of a transaction share; used by one task at a time.

    A block that does nothing costs nothing: connection and BEGIN come with the first statement,
    a savepoint with the first statement inside it, in one round trip with the RELEASE before it.
    """

    def __init__(
        self,
        pools: Pools,
        schema: str,
        *,
        hint: Callable[[Work], None],
        flush: Callable[["Session"], Any],
    ) -> None:
        self.pools = pools
        self.schema = schema
        self.open = True
        self.outgoing: list[tuple[Message, timedelta | None]] = []
        self.hints: set[Work] = set()
        self.closing: dict[str, set[str]] = {}  # keys that a closing round holds, by group
        self.xid: int | None = None
        self.ids: list[str] = []
        self.statements = 0
        self._hint = hint
        self._flush = flush
        self._role: Role = "work"
        self._connection: Connection | None = None
        self._borrowed = False
        self._whole = True
        self._wrote = False
        self._failed: StorageError | None = None
        self._points: list[_Savepoint] = []
        self._unreleased: str | None = None
        self._numbered = 0

    @classmethod
    def borrowed(
        cls,
        pools: Pools,
        schema: str,
        connection: Connection,
        *,
        hint: Callable[[Work], None],
        flush: Callable[["Session"], Any],
    ) -> "Session":
        """Inside the caller's transaction: never commits it, never rolls it back."""
        session = cls(pools, schema, hint=hint, flush=flush)
        session._connection = connection
        session._borrowed = True
        return session

    async def fetch(
        self, statement: str, *args: Any, where: str, role: Role = "work"
    ) -> list[Any]:
        """All rows of a statement of ours."""
        connection = await self._ready(role)
        self._wrote = True
        return await self._run(connection.fetch(statement, *args), where)  # type: ignore[no-any-return]

    async def execute(self, statement: str, *args: Any, where: str, role: Role = "work") -> str:
        """The command tag of a statement."""
        connection = await self._ready(role)
        self._wrote = True
        return await self._run(connection.execute(statement, *args), where)  # type: ignore[no-any-return]

    async def execute_many(self, statement: str, rows: Sequence[Any], *, where: str) -> None:
        """A statement for each row."""
        connection = await self._ready("work")
        self._wrote = True
        await self._run(connection.executemany(statement, rows), where)

    @property
    def connection(self) -> Connection | None:
        """The connection, once something was sent."""
        return self._connection

    async def raw(self) -> Connection:
        """The connection itself, with everything sent that is due."""
        self._wrote = True
        return await self._ready("work")

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """If the block raises, undo what it wrote, here and in the buffers."""
        point = _Savepoint(len(self.outgoing), set(self.hints))
        self._points.append(point)
        try:
            yield
            if self._failed is not None and point.name is not None:
                raise self._failed  # the block swallowed it: what it wrote cannot be kept
        except BaseException:
            del self.outgoing[point.outgoing :]
            self.hints = point.hints
            self._points.remove(point)
            await self._back_to(point)
            raise
        self._points.remove(point)
        if point.name is not None:
            self._unreleased = point.name

    async def commit(self) -> None:
        """Buffered rows last, then COMMIT, then hints.

        Raises:
            StorageError: nothing is kept.
            CommitUnknownError: perhaps all of it is.
        """
        self.open = False
        try:
            if self._failed is not None:
                raise self._doomed()
            if self.outgoing:
                await self._flush(self)
            if self._connection is not None and not self._borrowed:
                await self._commit(self._connection)
        except BaseException:
            await self._end(roll_back=True)
            raise
        await self._end(roll_back=False)
        for work in self.hints:
            self._hint(work)

    async def roll_back(self) -> None:
        """Nothing is kept. Never raises: the error that led here is the one to see (X11)."""
        self.open = False
        await self._end(roll_back=True)

    async def _ready(self, role: Role) -> Connection:
        if not self.open and self._connection is None:
            raise _over()
        if self._failed is not None:
            raise self._doomed()
        if self._connection is None:
            self._role = role
            self._connection = await self.pools.acquire(role)
            await self._run(
                self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED"), "BEGIN"
            )
        unsent = [point for point in self._points if point.name is None]
        if unsent:
            await self._send(self._connection, unsent)
        return self._connection

    async def _send(self, connection: Connection, unsent: "Sequence[_Savepoint]") -> None:
        parts = []
        if self._unreleased is not None:
            parts.append(f"RELEASE SAVEPOINT {self._unreleased}")
            self._unreleased = None
        for point in unsent:
            self._numbered += 1
            point.name = f"eventbus_{self._numbered}"
            parts.append(f"SAVEPOINT {point.name}")
        await self._run(connection.execute("; ".join(parts)), "SAVEPOINT")

    async def _back_to(self, point: "_Savepoint") -> None:
        if point.name is None or self._connection is None or not self._whole:
            return
        self._failed = None
        self._unreleased = None
        undo = f"ROLLBACK TO SAVEPOINT {point.name}; RELEASE SAVEPOINT {point.name}"
        try:
            await self._run(self._connection.execute(undo), "ROLLBACK TO SAVEPOINT")
        except StorageError as error:
            log.warning("a savepoint could not be undone: %s", error)

    async def _run(self, work: Any, where: str) -> Any:
        """Await the driver; a call that was cut leaves a connection nobody may use again."""
        self.statements += 1
        try:
            return await work
        except asyncio.CancelledError:
            self._whole = False
            raise
        except FAILURES as error:
            cut = isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError)
            if cut or sqlstate_of(error).startswith(("08", "57P")):
                self._whole = False
            failure = translated(error, f"{where}, {self.pools.config.where}")
            self._failed = failure
            raise failure from error

    async def _commit(self, connection: Connection) -> None:
        fate = await self._fate(connection)
        self.pools.warned(connection)
        commit = asyncio.ensure_future(connection.execute("COMMIT"))
        cancelled: asyncio.CancelledError | None = None
        while not commit.done():
            try:
                await asyncio.wait([commit])
            except asyncio.CancelledError as error:  # the outcome first: nobody may guess it
                cancelled = error
        self.statements += 1
        error = commit.exception()
        if error is not None:
            self._whole = False
            state = sqlstate_of(error)
            if state and not state.startswith(("08", "57P", "57014")):
                failure = translated(_as_exception(error), f"COMMIT, {self.pools.config.where}")
                raise failure from error
            raise self._unknown(fate, _as_exception(error)) from error
        if commit.result() == "ROLLBACK":
            raise self._doomed()
        if self.pools.warned(connection):
            raise self._unknown(fate, RuntimeError("the standby did not confirm the commit"))
        if cancelled is not None:
            raise cancelled

    async def _fate(self, connection: Connection) -> Fate | None:
        """What an unknown commit is resolved by; one round trip, unless a statement told the xid."""
        if self.xid is None and self._wrote:
            row = await self._run(
                connection.fetchval("SELECT pg_current_xact_id_if_assigned()::text"), "COMMIT"
            )
            self.xid = None if row is None else int(row)
        return None if self.xid is None else Fate(self.xid)

    def _unknown(self, fate: Fate | None, error: Exception) -> CommitUnknownError:
        async def ask() -> Literal["committed", "rolled_back", "unknown"]:
            return "unknown" if fate is None else await fate.ask(self.pools)

        return CommitUnknownError(
            "EB5101",
            "it is unknown whether the transaction is committed",
            ids=tuple(self.ids),
            where=f"COMMIT, {self.pools.config.where}",
            why=f"no answer to COMMIT: {type(error).__name__} {error}".rstrip(),
            next="await error.resolve() before anything is repeated",
            ask=ask,
        )

    async def _end(self, *, roll_back: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None or self._borrowed:
            return
        if roll_back and self._whole:
            try:
                async with asyncio.timeout(5):
                    if connection.is_in_transaction():
                        await connection.execute("ROLLBACK")
            except asyncio.CancelledError:
                self._whole = False
                await self.pools.release(self._role, connection, whole=False)
                raise
            except FAILURES as error:
                self._whole = False
                log.warning("a transaction was not rolled back by us: %s", error)
        await asyncio.shield(self.pools.release(self._role, connection, whole=self._whole))

    def _doomed(self) -> StorageError:
        assert self._failed is not None  # noqa: S101 - asked by the only callers
        error = StorageError(
            "EB5004",
            "the transaction cannot go on: a statement in it failed",
            where=self._failed.where,
            why=self._failed.what,
            next="let the error leave the block, or put the statement into tx.savepoint()",
        )
        error.__cause__ = self._failed
        return error


class _Savepoint:
    __slots__ = ("hints", "name", "outgoing")

    def __init__(self, outgoing: int, hints: set[Work]) -> None:
        self.outgoing = outgoing
        self.hints = hints
        self.name: str | None = None  # None: not sent


def _over() -> StorageError:
    return StorageError(
        "EB5010",
        "the transaction is over",
        where="storage.transaction()",
        why="its block was left",
        next="await everything inside the block",
    )


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
