"""What the tests of this room share: a message, and a gate that stops a statement half way."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventbus.message import Message, new_id
from eventbus.sqlite import SqliteStorage


def message(key: str | None = "k", id: str = "") -> Message:
    return Message(
        id=id or new_id(), type="shop.placed", source="/shop", topic="shop", payload=b"1", key=key
    )


@asynccontextmanager
async def with_table(path: Path | None) -> AsyncIterator[SqliteStorage]:
    """A storage with a table of the user."""
    async with SqliteStorage(None if path is None else str(path)) as storage:
        async with storage.transaction() as tx:
            await tx.sql.execute("CREATE TABLE IF NOT EXISTS note (text TEXT UNIQUE)")
        yield storage


async def notes(storage: SqliteStorage) -> list[str]:
    async with storage.transaction() as tx:
        return [row["text"] for row in await tx.sql.fetch("SELECT text FROM note ORDER BY text")]


class Gate:
    """Stops the statements of a storage whose text starts so, on their thread, until opened."""

    def __init__(self, start: str) -> None:
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()
        self.reached = asyncio.Event()

    async def watch(self, storage: SqliteStorage) -> None:
        def trace(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(self._traced)

        await storage._worker.do(lambda: trace(storage._worker.connection))

    def open(self) -> None:
        self._open.set()

    def _traced(self, statement: str) -> None:
        if statement.startswith(self._start) and not self._open.is_set():
            self._loop.call_soon_threadsafe(self.reached.set)
            self._open.wait(30)
