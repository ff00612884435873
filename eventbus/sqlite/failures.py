"""What SQLite's errors mean: no error of `sqlite3` leaves this room."""

import sqlite3

from eventbus.errors import StorageError

SQLITE_FAILURES = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError)
"""What executing a statement may raise; the last two by values that cannot be bound."""

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FILE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_CORRUPT,
}


def primary_code(error: BaseException) -> int:
    """SQLite's result code without its extension; 0 if it is none of SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def translated(error: Exception, where: str) -> StorageError:
    """The storage error of a client error; a storage error stays what it is."""
    if isinstance(error, StorageError):
        return error
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL:
        return StorageError(
            "EB5006",
            "the disk or the file's limit is full",
            where=where,
            why=str(error),
            next="free space; nothing of the transaction is kept, and intake goes on by itself",
        )
    if code in BUSY:
        return StorageError(
            "EB5007",
            "the database is locked by another process",
            where=where,
            why=str(error),
            next="repeat it; if it stays, find who holds a write transaction on the file",
        )
    if code in _FILE:
        return _file_failure(error, where)
    if isinstance(error, OverflowError | UnicodeError) or "not supported" in str(error):
        return StorageError(
            "EB5009",
            "a value cannot be stored",
            where=where,
            why=str(error),
            next="pass text without lone surrogates, integers of 64 bits, or another type",
        )
    return StorageError(
        "EB5005",
        "the statement failed",
        where=where,
        why=str(error),
        next="mend the statement or its values; placeholders are $1, $2",
    )


def _file_failure(error: Exception, where: str) -> StorageError:
    return StorageError(
        "EB5001",
        "the database file cannot be used",
        where=where,
        why=str(error),
        next="check that path and directory exist and are writable, and that it is a SQLite file",
    )
