"""Errors of driver and server -> ours: foreign errors stop at the border, with their cause."""

import re

import asyncpg
from asyncpg.exceptions import DataError, InternalClientError, InvalidCachedStatementError

from eventbus.errors import StorageError

FAILURES: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    InternalClientError,
    OSError,  # TimeoutError too
    UnicodeError,  # a lone surrogate in the text of a statement
)
"""What the driver may raise; programming errors pass."""

_UNREACHABLE = ("08", "57P01", "57P02", "57P03", "57P05", "53300", "25P03")
_POOLER = re.compile(r"unsupported startup parameter|prepared statement .* does not exist")
# What the driver says of its own objects, once the connection under them is gone.
_CUT = re.compile(
    r"released back to the pool|another operation \(\d+\) is in progress"
    r"|connection is closed|underlying connection is closed"
)
_WENT = "the connection ended in between; the server's log says why"
_UNKNOWN_SETTING = "unrecognized configuration parameter"
_LATER = (
    "nothing is lost: what runs goes on by itself when the database is back, what was to start is"
    " started again; eventbus doctor"
)
_SHORTER = "keep transactions short, with no HTTP call inside | a larger ?pool= | fewer lanes"
_SETTINGS = "mend the URL: ours are schema, pool, pgbouncer and idle, all others go to the server"


class AllTakenError(TimeoutError):
    """Not the server is slow: this process has all connections of a pool in use."""

    def __init__(self, most: int, seconds: float) -> None:
        super().__init__(f"none was given back within {seconds:g} s")
        self.most = most


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE, or empty."""
    return getattr(error, "sqlstate", None) or ""


def is_cut(error: BaseException) -> bool:
    """Whether the connection it came from can be trusted no more."""
    if isinstance(error, DataError):
        return False
    foreign = isinstance(error, OSError | InternalClientError)
    return foreign or sqlstate_of(error).startswith((*_UNREACHABLE, "25006"))


def translated(
    error: BaseException, where: str, *, ours: bool = True, cut: bool = False
) -> StorageError:
    """The storage error that a failure of driver or server is.

    Args:
        error: what was raised.
        where: the statement's name, and the database.
        ours: the statement is of this package; one of the application can be a message's fault.
        cut: the connection is gone.
    """
    state = sqlstate_of(error)
    what, code, to_do = _meaning(error, state, ours=ours, cut=cut)
    why = _WENT if cut and not state and _CUT.search(str(error)) else _said(error, state)
    return StorageError(code, what, where=where, why=why, next=to_do)


def _meaning(error: BaseException, state: str, *, ours: bool, cut: bool) -> tuple[str, str, str]:
    if isinstance(error, AllTakenError):
        return f"all {error.most} connections of the pool are taken", "EB5007", _SHORTER
    if isinstance(error, TimeoutError):
        return "the database did not answer in time", "EB5007", _LATER
    if isinstance(error, DataError | UnicodeError) or state.startswith("22") or state == "23502":
        return "a value does not fit", "EB5009", "mend the value that the server names"
    if _POOLER.search(str(error)):
        return (
            "a pooler stands before the database",
            "EB5001",
            "say so: postgresql://…?pgbouncer=true",
        )
    if state == "53300":
        return (
            "the database has no connection left",
            "EB5001",
            "raise max_connections, or lower ?pool= (docs: how-to/runbooks, sizing)",
        )
    if state in {"28000", "28P01", "3D000"}:
        return "the database refuses the login", "EB5001", "mend user, password or name"
    if cut and _UNKNOWN_SETTING in str(error):  # it was to be set while connecting
        return "the database knows no such setting", "EB5001", _SETTINGS
    if state == "25006":
        return "the database is read-only", "EB5013", "connect to the primary"
    if cut or isinstance(error, OSError) or state.startswith(_UNREACHABLE):
        return "the database cannot be reached", "EB5001", _LATER
    if state in {"40001", "40P01"} or isinstance(error, InvalidCachedStatementError):
        return "the transaction met another one", "EB5011", "run the whole transaction again"
    if state in {"55P03", "57014"}:
        return "a lock or a statement took too long", "EB5007", _LATER
    if state == "53100":
        return "the database's disk is full", "EB5006", "free space; intake goes on by itself"
    if state.startswith("23"):
        return "a constraint refuses the row", "EB5005", "mend the data, or say ON CONFLICT"
    if ours and state == "42501":
        return "the role lacks a right", "EB5012", _right_for(str(error))
    if ours and state in {"3F000", "42P01", "42883", "42703"}:
        return "the schema of eventbus is not there", "EB5302", "eventbus db upgrade"
    return "a statement failed", "EB5005", "mend the statement; placeholders are $1, $2"


def _right_for(denied: str) -> str:
    if "for database" in denied:  # an upgrade makes the schema
        return "GRANT CREATE ON DATABASE, or let a role that may run eventbus db upgrade --sql"
    return "GRANT it: USAGE on the schema, and the tables"


def _said(error: BaseException, state: str) -> str:
    return f"{state} {_first_line(error)}".strip()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:500] if lines else type(error).__name__
