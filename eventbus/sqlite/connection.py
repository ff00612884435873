"""Opening a connection with the settings that the promises rest on, and the file's lock."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

from eventbus.errors import StorageError

Synchronous = Literal["FULL", "NORMAL"]
Role = Literal["writer", "operator", "reader"]
"""An operator's process writes beside the bus: it never creates the file and never checkpoints."""

BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How connections of one storage are opened."""

    path: str | None
    now: Callable[[], float]
    synchronous: Synchronous = "FULL"

    def connect(self, role: Role) -> sqlite3.Connection:
        """A connection without implicit transactions; it may move between threads, used by one."""
        name = ":memory:" if self.path is None else self._uri(role)
        connection = sqlite3.connect(
            name,
            uri=self.path is not None,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        try:
            self._configure(connection, role)
        except BaseException:
            connection.close()
            raise
        return connection

    def _uri(self, role: Role) -> str:
        mode = "rwc" if role == "writer" else "rw"
        return f"file:{quote(str(self.path))}?mode={mode}"

    def _configure(self, connection: sqlite3.Connection, role: Role) -> None:
        def milliseconds() -> int:
            return int(self.now() * 1000)

        # deterministic: called once per statement, not once per row, and it may bound an index
        connection.create_function("eventbus_now", 0, milliseconds, deterministic=True)
        settings = ["temp_store = MEMORY", "trusted_schema = OFF", "cache_size = -65536"]
        if self.path is not None:
            settings = ["journal_mode = WAL", f"synchronous = {self.synchronous}", *settings]
            settings += ["journal_size_limit = 67108864", "mmap_size = 0"]
            # checkpoints come from one connection only (X18)
            settings.append(f"wal_autocheckpoint = {1000 if role == 'writer' else 0}")
        if role == "reader":
            settings.append("query_only = ON")
        else:
            settings.append("busy_timeout = 0")  # from here on the session waits (`session.py`)
        for setting in settings:
            connection.execute(f"PRAGMA {setting}").fetchall()


class FileLock:
    """One bus per file: an advisory lock on `<file>.lock`, gone with the process."""

    def __init__(self, path: str) -> None:
        self._path = Path(f"{path}.lock")
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Take it or fail at once.

        Raises:
            StorageError: EB5303, another bus has it; EB5001, the directory cannot be written.
        """
        try:
            file = self._path.open("ab")
        except OSError as error:
            raise StorageError(
                "EB5001",
                f"cannot write beside the database: {self._path.name}",
                where=str(self._path.parent),
                why=str(error),
                next="create the directory, or make it writable for this user",
            ) from error
        try:
            _lock(file)
        except OSError as error:
            file.close()
            raise StorageError(
                "EB5303",
                "another bus has this SQLite file open",
                where=str(self._path),
                why="one process may run a bus on a file: it owns the writer and all leases",
                next="stop the other one, or use PostgreSQL for several processes",
            ) from error
        self._file = file

    def give_back(self) -> None:
        """Unlock; twice is once."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore] # not on this platform
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
