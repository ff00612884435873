"""One transaction: what is sent with which call, what a failure dooms, how it ends."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import TypeVar

from eventbus.errors import StorageError
from eventbus.sqlite.connection import BUSY_SECONDS
from eventbus.sqlite.desk import Buffer, Desk
from eventbus.sqlite.failures import BUSY, SQLITE_FAILURES, primary_code, translated
from eventbus.sqlite.unknown import Witness, unknown_commit
from eventbus.storage import Work
from eventbus.storage.abandoned import abandoned

log: logging.Logger = logging.getLogger("eventbus.sqlite")
T = TypeVar("T")

_RECORDED = "SELECT 1 FROM eventbus_events WHERE message_id = ? AND position = ?"


class Session:
    """The first statement takes the turn and begins; until then nothing is sent.

    Savepoints are sent with the first statement of their block, releases and rollbacks of
    savepoints with the next statement: each call of the contract is one call of the worker.
    """

    def __init__(self, desk: Desk, flush: "Callable[[sqlite3.Connection, Session], None]") -> None:
        self.desk = desk
        self.buffer: Buffer = Buffer()
        self.hints: set[Work] = set()
        self.closing_keys: set[tuple[str, str]] = set()
        self.witness: Witness | None = None
        self.appended_after: int | None = None  # the event log's head before the first append
        self.open: bool = True
        self._flush = flush
        self._began = False
        self._lost = False  # it did not begin, or SQLite rolled back by itself
        self._changes = 0
        self._pending: list[str] = []
        self._blocks: list[_Block] = []
        self._doom: tuple[int, BaseException] | None = None  # depth, first error

    async def run(
        self, where: str, call: Callable[[sqlite3.Connection], T], *, slow: bool = False
    ) -> T:
        """One call of the contract: all its statements, with what is due before them.

        Args:
            where: what an error names, and what is remembered as quick.
            call: the statements.
            slow: never inline on the loop.

        Raises:
            StorageError: it failed; outside a savepoint nothing else can be done here.
        """
        await self.step()
        if not self._began:
            await self._begin()
            self.check()  # it may have been given up meanwhile
        name = None if slow else where
        try:
            return await self.desk.worker.do(self._act, self._due(), call, name=name)
        except asyncio.CancelledError as error:  # it runs, or ran: nobody knows how far
            self._doom = self._doom or (len(self._blocks), error)
            raise
        except SQLITE_FAILURES as error:
            raise self._failure(error, where) from error

    async def _begin(self) -> None:
        worker = self.desk.worker
        await self.desk.turn.acquire()
        if self._doom is not None:  # given up while it waited
            self.desk.turn.release()
            raise _doomed(self._doom[1])
        self._began = True
        try:
            if not await worker.do(self._try_to_begin, name="begin"):
                self._refuse_if_doomed()  # another one may have the turn by now
                await worker.do(self._wait_to_begin)
        except asyncio.CancelledError as error:
            self._doom = (0, error)
            raise
        except (StorageError, *SQLITE_FAILURES) as error:
            raise self._failure(error, "begin") from error

    def _try_to_begin(self) -> bool:
        self._lost = True  # until it began
        self.desk.worker.mend()
        connection = self.desk.worker.connection
        if connection.in_transaction:  # somebody's rollback failed
            connection.execute("ROLLBACK")
        try:
            # never deferred: a later write would fail at once, BUSY_SNAPSHOT does not wait (X20)
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if primary_code(error) in BUSY:
                return False
            raise
        self._changes = connection.total_changes
        self._lost = False
        return True

    def _wait_to_begin(self) -> None:
        # another process writes; the connection's own busy_timeout is 0, it would hold the loop
        deadline = time.monotonic() + BUSY_SECONDS
        while not self._try_to_begin():
            if time.monotonic() > deadline:
                raise StorageError(
                    "EB5007",
                    "the database is locked by another process",
                    where="begin",
                    why=f"another write transaction was open for {BUSY_SECONDS:.0f} s",
                    next="repeat it; if it stays, find the program that writes the file",
                )
            time.sleep(0.005)

    async def step(self) -> None:
        """What every call of the contract does first: a point of the seeded loop, and a check."""
        if self.desk.stepwise:
            await asyncio.sleep(0)
        self.check()

    def check(self) -> None:
        """Refuse what cannot be kept any more."""
        self._refuse_if_doomed()
        if not self.open:
            raise StorageError(
                "EB5010",
                "the transaction is over",
                where="a statement after the block of its transaction",
                why="it was committed or rolled back when the block was left",
                next="do it inside `async with storage.transaction()`",
            )

    def _refuse_if_doomed(self) -> None:
        if self._doom is not None:
            raise _doomed(self._doom[1])

    def _due(self) -> list[str]:
        due, self._pending = self._pending, []
        for depth, block in enumerate(self._blocks):
            if not block.sent:
                block.sent = True
                due.append(f"SAVEPOINT s{depth}")
        return due

    def _act(self, due: Sequence[str], call: Callable[[sqlite3.Connection], T]) -> T:
        connection = self.desk.worker.connection
        try:
            self._send(connection, due)
            return call(connection)
        except BaseException:
            self._lost = not connection.in_transaction
            raise

    def _send(self, connection: sqlite3.Connection, due: Sequence[str]) -> None:
        if not connection.in_transaction:
            raise sqlite3.OperationalError("the transaction was rolled back by SQLite")
        for statement in due:
            connection.execute(statement)

    def _failure(self, error: Exception, where: str) -> StorageError:
        failure = translated(error, where)
        depth = 0 if self._lost else len(self._blocks)
        self._doom = self._doom or (depth, failure)
        if failure.code in {"EB5001", "EB5006"}:
            self.desk.trouble = f"{failure.what}: {failure.why}"
        return failure

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A block that can be undone alone; leaving it never awaits."""
        return _Block(self)

    def enter(self, block: "_Block") -> None:
        """The block is the innermost one now."""
        self.check()
        self._blocks.append(block)

    def leave(self, block: "_Block", *, keep: bool) -> None:
        """Keep or undo what the block wrote.

        Raises:
            StorageError: EB5004, it should be kept, and a statement in it had failed.
        """
        depth = len(self._blocks) - 1
        self._blocks.pop()
        doom = self._doom
        inner = doom is not None and doom[0] > depth
        if keep and not inner:
            if block.sent:
                self._pending.append(f"RELEASE s{depth}")
            return
        if inner:
            self._doom = None
        self.buffer.cut(block.lengths)
        if block.sent:
            self._pending += [f"ROLLBACK TO s{depth}", f"RELEASE s{depth}"]
        if keep and doom is not None:
            raise _doomed(doom[1]) from doom[1]

    async def commit(self) -> None:
        """Write the buffered rows, then commit, then give hints.

        Cancelled meanwhile, it raises CancelledError once the outcome is certain.

        Raises:
            StorageError: nothing is kept.
            CommitUnknownError: perhaps all of it is kept.
        """
        self.open = False
        if self._doom is not None:
            self.rollback()
            raise _doomed(self._doom[1]) from self._doom[1]
        worker = self.desk.worker
        try:
            if not await self._write_last():
                return
            # without changes a commit is quick: nothing goes to the disk
            quick = worker.connection.total_changes == self._changes
            future = worker.certainly(self._commit, name="commit" if quick else None)
        except BaseException:
            self.rollback()
            raise
        try:
            await future
        finally:  # cancelled or not: it is done
            self.desk.turn.release()
            if future.done() and future.exception() is None:
                self.desk.trouble = None
                self.desk.wakeups.give(self.hints)

    async def _write_last(self) -> bool:
        if self.desk.stepwise:
            await asyncio.sleep(0)
        if not self._began:
            if self.buffer.empty:
                return False
            await self._begin()
        if self._pending or not self.buffer.empty:
            try:
                await self.desk.worker.do(self._act, self._due(), self._flush_self, name="flush")
            except SQLITE_FAILURES as error:
                raise self._failure(error, "outbox.add") from error
        return True

    def _flush_self(self, connection: sqlite3.Connection) -> None:
        self._flush(connection, self)

    def _commit(self) -> None:
        connection = self.desk.worker.connection
        recorded = self.buffer.recorded
        witness = self.witness or ((_RECORDED, recorded[-1]) if recorded else None)
        try:
            connection.execute("COMMIT")
        except SQLITE_FAILURES as error:
            self._lost = True
            if not connection.in_transaction:
                raise unknown_commit(
                    error, self.desk.worker, ids=self.buffer.message_ids(), witness=witness
                ) from error
            self._undo()
            raise self._failure(error, "commit") from error

    def rollback(self) -> None:
        """Undo everything; returns at once, the worker keeps the order."""
        self.open = False
        if not self._began:
            return
        self.desk.worker.post(self._undo)
        self.desk.turn.release()
        self._began = False

    def abandon(self) -> None:
        """Roll back and pass the turn on; its own task finds out with its next call."""
        if self.open:
            self._doom = (0, abandoned())
            self.rollback()

    def _undo(self) -> None:
        worker = self.desk.worker
        try:
            if worker.connection.in_transaction:
                worker.connection.execute("ROLLBACK")
        except (StorageError, sqlite3.Error):
            log.exception("a rollback failed: the connection is opened again")
            with suppress(sqlite3.Error):  # the next transaction tries again
                worker.reopen()


class _Block(AbstractAsyncContextManager[None]):
    def __init__(self, session: Session) -> None:
        self._session = session
        self.sent = False
        self.lengths: tuple[int, int, int] = (0, 0, 0)

    async def __aenter__(self) -> None:
        self._session.enter(self)
        self.lengths = self._session.buffer.lengths()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.leave(self, keep=kind is None)


def _doomed(first: BaseException) -> StorageError:
    error = StorageError(
        "EB5004",
        "the transaction is doomed: an earlier statement in it failed",
        where="a statement after the failed one",
        why=f"first was: {first!s:.200}" if str(first) else f"first was: {type(first).__name__}",
        next="let the first error leave the block, or wrap what may fail in tx.savepoint()",
    )
    error.__cause__ = first
    return error
