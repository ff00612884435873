"""SqliteStorage: one file or one database in memory, one writer, transactions in turn."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TypeVar
from urllib.parse import parse_qsl, unquote

from eventbus.errors import ConfigurationError, Finding, StorageError, UnsafeConfigurationError
from eventbus.sqlite import retention
from eventbus.sqlite.connection import FileLock, Opening, Role, Synchronous
from eventbus.sqlite.desk import Desk
from eventbus.sqlite.examination import findings
from eventbus.sqlite.failures import SQLITE_FAILURES, translated
from eventbus.sqlite.feed import read_bound
from eventbus.sqlite.inline import InlineWorker
from eventbus.sqlite.inspection import SqliteInspection
from eventbus.sqlite.leases import free_all
from eventbus.sqlite.transaction import Entry
from eventbus.sqlite.upgrade import require_current, upgrade
from eventbus.sqlite.wakeups import Wakeups
from eventbus.sqlite.worker import ThreadWorker, Worker, closed
from eventbus.storage import StorageCapabilities, Transaction, Work
from eventbus.storage.events import Append, Appended, ReadBound
from eventbus.storage.merging import Merging, Verdict
from eventbus.storage.nesting import refuse_nested
from eventbus.storage.verdicts import streams_of

T = TypeVar("T")
STUCK_SECONDS = 10.0


class SqliteStorage:
    """A database in a file, or in memory if `path` is None or ":memory:".

    In memory the data lives as long as this object: it may be left and entered again. Tasks that
    were started inside a transaction count as inside it: they cannot open one of their own.

    Args:
        path: the file; created with its schema when it is entered first.
        now: unix seconds, behind every due time and lease.
        synchronous: below FULL the last commits go with the power.
        stepwise: in memory, every call of the contract yields once to the loop before it acts.
        inspect_only: for operators beside a running bus: no bus lock, no upgrade.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        now: Callable[[], float] | None = None,
        synchronous: Synchronous = "FULL",
        stepwise: bool = False,
        inspect_only: bool = False,
    ) -> None:
        path = None if path == ":memory:" else path  # as SQLite itself calls it
        self.path = path
        self._opening = Opening(path=path, now=now or time.time, synchronous=synchronous)
        self._inspect_only = inspect_only
        self._stepwise = stepwise and path is None
        self._lock = FileLock(path) if path is not None and not inspect_only else None
        self._worker = self._make_worker()
        self._wakeups = Wakeups(self._worker, shared=path is not None)
        self._desk: Desk | None = None
        self._reader: ThreadWorker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entered = 0
        self._inspection = SqliteInspection(self)
        self._merging = Merging(self._append_all, lanes=1)

    def _make_worker(self) -> Worker:
        role: Role = "operator" if self._inspect_only else "writer"
        opening = self._opening
        if self.path is None:
            return InlineWorker(partial(opening.connect, role))
        return ThreadWorker(partial(opening.connect, role), name="eventbus-sqlite-writer")

    @property
    def capabilities(self) -> StorageCapabilities:
        """A file survives the process; processes share neither."""
        return StorageCapabilities(durable=self.path is not None, shared=False, concurrent=False)

    @property
    def trouble(self) -> str | None:
        """A full or unusable disk until a commit succeeds, or a call that does not come back."""
        if self._desk is None:
            return "the storage is not entered"
        busy = self._worker.busy_seconds
        if busy > STUCK_SECONDS:
            return f"a statement has been running for {busy:.0f} s"
        return self._desk.trouble

    @property
    def inspection(self) -> SqliteInspection:
        """For operators; while the storage is entered."""
        return self._inspection

    async def __aenter__(self) -> "SqliteStorage":
        """Open the database and bring its schema to this version.

        Raises:
            StorageError: EB5001 it cannot be used, EB5303 another bus has the file.
            MigrationError: EB5301, EB5302: the schema is not ours to use.
        """
        if self._entered and self.path is not None:
            raise _entered_twice()
        if self._loop is not asyncio.get_running_loop():  # what a lost loop left is forgotten
            self._loop = asyncio.get_running_loop()
            self._entered = 0
        if self._lock is not None:
            self._lock.take()
        try:
            await self._open()
        except BaseException:
            if self._lock is not None:
                self._lock.give_back()
            raise
        self._entered += 1
        return self

    async def _open(self) -> None:
        try:
            await self._worker.start()
            await self._worker.do(self._prepare_schema)
        except SQLITE_FAILURES as error:
            await self._worker.stop()
            raise translated(error, f"opening {self.path or ':memory:'}") from error
        except BaseException:
            await self._worker.stop()
            raise
        if not self._entered:
            self._wakeups.begin()
            self._desk = Desk(
                worker=self._worker,
                turn=asyncio.Lock(),
                wakeups=self._wakeups,
                stepwise=self._stepwise,
            )

    def _prepare_schema(self) -> None:
        connection = self._worker.connection
        if connection.in_transaction:  # of a task that was abandoned with its loop
            connection.execute("ROLLBACK")
        if self._inspect_only:
            require_current(connection)
        else:
            upgrade(connection)
            if not self._entered:
                free_all(connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish what was handed over, close the file; data in memory stays."""
        self._entered -= 1
        if self._entered:
            return
        await self._merging.finish()
        self._desk = None
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                await reader.stop()
            await self._worker.stop()
        finally:
            if self._lock is not None:
                self._lock.give_back()

    def close(self) -> None:
        """Drop the data of a database in memory; a file is closed by leaving it."""
        if isinstance(self._worker, InlineWorker):
            self._worker.close()

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that commits on leaving."""
        return Entry(self, self._at_desk())

    def _at_desk(self) -> Desk:
        if self._desk is None:
            raise closed()
        return self._desk

    def enlist(self, connection: object) -> AbstractAsyncContextManager[Transaction]:
        """Nothing can be joined on SQLite.

        Raises:
            UnsafeConfigurationError: EB5008, always.
        """
        raise UnsafeConfigurationError(
            "EB5008",
            f"a {type(connection).__name__} cannot be joined",
            where="bus.transaction(connection) on SQLite",
            why="one thread owns the only connection that writes; on SQLite nothing is accepted",
            next="use bus.transaction() and its tx.sql, or PostgreSQL to join a session",
        )

    async def append(self, append: Append) -> Appended:
        """Append in a commit of its own, grouped with those of other tasks that wait (S7).

        Raises:
            ConcurrencyError, StreamClosedError, StorageError: nothing was written.
            CommitUnknownError: perhaps it stands there; the same ids again settle it.
        """
        refuse_nested(self)
        self._at_desk()
        return await self._merging.append(append)

    async def _append_all(self, appends: Sequence[Append]) -> Sequence[Verdict]:
        async with Entry(self, self._at_desk()) as tx:
            return await tx.events.append_all(appends)

    async def load_events(self, appends: Sequence[Append], *, skip: bool = False) -> int:
        """Bulk load, in one transaction.

        Raises:
            ConcurrencyError: EB5003, a stream exists; nothing was written.
            StorageError: EB5015, the arguments, or a stream is there twice.
        """
        ordered = [
            replace(append, expected="absent", publish=())
            for append in streams_of(appends).values()
        ]
        async with Entry(self, self._at_desk()) as tx:
            verdicts = await tx.events.append_all(ordered)
            refused = [each for each in verdicts if isinstance(each, Exception)]
            if refused and not skip:
                raise refused[0]
        return sum(
            len(append.messages)
            for append, verdict in zip(ordered, verdicts, strict=True)
            if isinstance(verdict, Appended) and not verdict.repeated
        )

    async def read_bound(self) -> ReadBound:
        """How far the feed can be read at this moment: to its end, there is one writer."""
        return await self.look("events.read_bound", read_bound)

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Until a hint that this task has not seen, from another process too, or `at_most`."""
        self._at_desk()
        await self._wakeups.wait(work, at_most=at_most)

    async def upgrade(self) -> None:
        """Entering does it; this is for a storage that is not entered.

        Raises:
            StorageError: as entering.
        """
        if self._desk is None:
            async with self:
                pass

    async def examine(self) -> Sequence[Finding]:
        """What this file, this library and these settings mean for the promises."""
        return findings(self.path, self._opening.synchronous)

    async def look(self, where: str, call: Callable[[sqlite3.Connection], T]) -> T:
        """Read what is committed: on a file beside the writer, in memory in its turn.

        Raises:
            StorageError: it cannot be read.
        """
        desk = self._at_desk()
        if self.path is None:
            async with Entry(self, desk) as tx:
                return await tx.session.run(where, call)
        reader = self._reader
        if reader is None:
            connect = partial(self._opening.connect, "reader")
            reader = self._reader = ThreadWorker(connect, name="eventbus-sqlite-reader")
            try:
                await reader.start()
            except BaseException as error:
                self._reader = None
                if isinstance(error, SQLITE_FAILURES):
                    raise translated(error, where) from error
                raise
        try:
            return await reader.do(lambda: call(reader.connection))
        except SQLITE_FAILURES as error:
            raise translated(error, where) from error

    async def change(
        self, where: str, call: Callable[[sqlite3.Connection], T], *, hints: Collection[Work]
    ) -> T:
        """Write in a transaction of its own; a call that raises changes nothing."""
        async with Entry(self, self._at_desk()) as tx:
            tx.session.hints.update(hints)
            return await tx.session.run(where, call, slow=True)

    async def prune(self, *, inbox: timedelta, limit: int) -> int:
        """Delete what is past its time, at most `limit` rows of each kind; how many it were.

        Inbox rows older than `inbox`, attempts after 7 days, discarded letters after 30, audit
        rows after 400, leases of relays that ended an hour ago.
        """
        async with Entry(self, self._at_desk()) as tx:
            return await retention.prune(tx.session, inbox=inbox, limit=limit)


def open_storage(url: str, service: str) -> SqliteStorage:
    """`sqlite://` in memory, `sqlite:///relative.db`, `sqlite:////absolute/path.db`.

    Args:
        url: with `?synchronous=NORMAL` if the last commits may go with the power.
        service: not needed here.

    Raises:
        ConfigurationError: EB1006, the URL or an option cannot be understood.
    """
    head, _, query = url.partition("?")
    location = head.removeprefix("sqlite://")
    options = dict(parse_qsl(query, keep_blank_values=True))
    level = options.pop("synchronous", "FULL").upper()
    if options or level not in {"FULL", "NORMAL"}:
        raise _bad_url(url, "the one option is synchronous=FULL or synchronous=NORMAL")
    synchronous: Synchronous = "FULL" if level == "FULL" else "NORMAL"
    if not location or location == "/":
        return SqliteStorage(synchronous=synchronous)
    if not location.startswith("/"):
        raise _bad_url(url, "a host makes no sense for a file")
    return SqliteStorage(unquote(location[1:]), synchronous=synchronous)


def _bad_url(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        "EB1006",
        "the URL of the SQLite storage cannot be understood",
        where=url,
        why=why,
        next="sqlite:// in memory, sqlite:///relative.db, sqlite:////absolute/path.db",
    )


def _entered_twice() -> StorageError:
    return StorageError(
        "EB5303",
        "this storage is entered already",
        where="SqliteStorage",
        why="one bus owns a file",
        next="enter it once, or build another storage for another file",
    )
