"""Errors of driver and server -> ours: foreign errors stop at the border, with their cause."""

import asyncio

import asyncpg

from eventbus.errors import StorageError

# What a message may be to blame for: its own statement. Everything else is our database's trouble.
_UNREACHABLE = ("08", "57P01", "57P02", "57P03", "53300")
_AGAIN = ("40001", "40P01")
_LOCKED = ("55P03", "57014", "25P03")
_BORDER = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, asyncio.TimeoutError)
FAILURES: tuple[type[Exception], ...] = _BORDER


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE, or empty."""
    return getattr(error, "sqlstate", None) or ""


def translated(error: Exception, where: str) -> StorageError:
    """The storage error that a failure of driver or server is."""
    state = sqlstate_of(error)
    text = f"{state + ' ' if state else ''}{_first_line(error)}"
    if isinstance(error, TimeoutError):
        return _failure("EB5007", "the database did not answer in time", where, text, _LATER)
    if state.startswith(_UNREACHABLE) or isinstance(error, OSError | asyncpg.InterfaceError):
        return _failure("EB5001", "the database cannot be reached", where, text, _LATER)
    if state in _AGAIN:
        return _failure("EB5011", "the transaction met another one", where, text, "it runs again")
    if state in _LOCKED:
        return _failure("EB5007", "a lock or a statement took too long", where, text, _LATER)
    if state == "53100":
        return _failure("EB5006", "the database's disk is full", where, text, "free space")
    if state == "42501":
        return _failure("EB5012", "the role lacks a right", where, text, "GRANT what is missing")
    if state == "25006":
        return _failure(
            "EB5013", "the database is read-only", where, text, "connect to the primary"
        )
    if state in {"3F000", "42P01"} and "eventbus" in where:
        return _failure(
            "EB5302", "the schema of eventbus is missing", where, text, "eventbus db upgrade"
        )
    if state.startswith("22"):
        return _failure("EB5009", "a value does not fit", where, text, "mend the value")
    return _failure("EB5005", "a statement failed", where, text, "mend the statement")


_LATER = "nothing is lost: it goes on by itself when the database is back | eventbus doctor"


def is_conflict(error: StorageError) -> bool:
    """Serialization failure or deadlock: the whole unit of work may run again."""
    return error.code == "EB5011"


def _failure(code: str, what: str, where: str, why: str, next: str) -> StorageError:
    return StorageError(code, what, where=where, why=why, next=next)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:500] if lines else type(error).__name__
