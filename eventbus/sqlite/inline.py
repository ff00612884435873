"""A database in memory: statements run on the loop, and the data stays with the object."""

import asyncio
import sqlite3
import weakref
from collections.abc import Callable
from typing import TypeVar

from eventbus.sqlite.worker import closed, done

T = TypeVar("T")


class InlineWorker:
    """In memory: no thread; the connection outlives `stop`, or the data would be gone."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._closing: weakref.finalize[[], InlineWorker] | None = None
        self.hops = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """The one there is."""
        if self._connection is None:
            raise closed()
        return self._connection

    @property
    def busy_seconds(self) -> float:
        """Nobody can ask while a call runs."""
        return 0.0

    async def do(self, call: Callable[..., T], *args: object, name: str | None = None) -> T:
        """Run it here and now."""
        return call(*args)

    def certainly(self, call: Callable[[], T], *, name: str | None = None) -> asyncio.Future[T]:
        """Run it here and now."""
        return done(call)

    def post(self, call: Callable[[], None]) -> None:
        """Run it here and now, also without a loop: an abandoned task rolls back with its end."""
        if self._connection is not None:
            call()

    def reopen(self) -> None:
        """Keep it: another connection would be another database."""

    def mend(self) -> None:
        """It does not break."""

    async def start(self) -> None:
        """Open the database, or find the one of before."""
        if self._connection is None:
            self._connection = self._connect()
            self._closing = weakref.finalize(self, self._connection.close)

    async def stop(self) -> None:
        """Roll back what an abandoned task left open."""
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Forget the data."""
        if self._closing is not None:
            self._closing()
        self._connection = None
