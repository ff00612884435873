"""The user's statements: `$1` placeholders, one dictionary of conversions."""

import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from eventbus.errors import StorageError
from eventbus.sqlite.session import Session

_NAMES = tuple(str(number) for number in range(1, 1000))
_NOT_YOURS = frozenset(
    {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM"}
)
_READING_PRAGMAS = frozenset(
    {
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
_LEADING = re.compile(r"(?:\s|;|--[^\n]*\n?|/\*.*?\*/)*(?P<word>\w*)\s*(?P<next>\w*)", re.DOTALL)


class SqliteSql:
    """In this transaction, and in the savepoint of the message that is handled."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def execute(self, statement: str, *args: object) -> int:
        """How many rows it changed; 0 for a query.

        Raises:
            StorageError: EB5005 the statement, EB5009 a value; see `tx.savepoint()`.
        """
        refuse(statement)
        values = bound(args)

        def execute(connection: sqlite3.Connection) -> int:
            cursor = connection.execute(statement, values)
            if cursor.description is not None:  # rows of RETURNING are counted when they were read
                cursor.fetchall()
            return max(cursor.rowcount, 0)

        return await self._session.run(_shown(statement), execute)

    async def execute_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Once per row."""
        refuse(statement)
        values = [bound(row) for row in rows]

        def execute_many(connection: sqlite3.Connection) -> None:
            connection.executemany(statement, values)

        await self._session.run(_shown(statement), execute_many, slow=True)

    async def fetch(self, statement: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """All rows, by column name."""
        refuse(statement)
        values = bound(args)

        def fetch(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            cursor = connection.execute(statement, values)
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return await self._session.run(_shown(statement), fetch)


def bound(args: Sequence[object]) -> dict[str, Any]:
    """Arguments by the names that `$1`, `$2` have for SQLite: any order, repeated or not.

    Raises:
        StorageError: EB5009, a value has no form in SQLite; nothing was sent.
    """
    return {name: _plain(name, value) for name, value in zip(_NAMES, args, strict=False)}


def _plain(name: str, value: object) -> object:
    convert = _CONVERSIONS.get(type(value), _unusual)
    if convert is None:
        return value
    try:
        return convert(value)
    except ValueError as error:
        raise StorageError(
            "EB5009",
            f"a {type(value).__name__} cannot be a parameter",
            where=f"${name}",
            why=str(error),
            next="pass None, int, float, str, bytes, Decimal, UUID, date, time or datetime",
        ) from error


def _moment(value: datetime) -> str:
    return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def _number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("SQLite would store NaN as NULL")
    return value


def _refused(value: object) -> object:
    raise ValueError("SQLite has no such type, and a number would not say its unit")


def _unusual(value: object) -> object:
    for kind, convert in _CONVERSIONS.items():  # subclasses, in the order of the dictionary
        if isinstance(value, kind):
            return value if convert is None else convert(value)
    raise ValueError("SQLite has no such type")


_CONVERSIONS: dict[type, Callable[[Any], object] | None] = {
    bool: None,
    int: None,
    str: None,
    bytes: None,
    bytearray: None,
    memoryview: None,
    type(None): None,
    float: _number,
    Decimal: str,
    UUID: str,
    datetime: _moment,  # before date: it is one
    date: date.isoformat,
    time: time.isoformat,
    timedelta: _refused,
}


@lru_cache(maxsize=1024)
def refuse(statement: str) -> None:
    """Refuse what would end our transaction or change the connection.

    Raises:
        StorageError: EB5005; nothing was sent.
    """
    match = _LEADING.match(statement)
    word = match["word"].upper() if match else ""
    reading = word == "PRAGMA" and match is not None and match["next"] in _READING_PRAGMAS
    if word in _NOT_YOURS or (word == "PRAGMA" and not reading):
        raise StorageError(
            "EB5005",
            f"{word} is not for statements in a transaction of the bus",
            where=_shown(statement),
            why="the bus begins and ends transactions, and owns the connection's settings",
            next="leave it out; tx.savepoint() undoes a part, an exception undoes all",
        )


@lru_cache(maxsize=1024)
def _shown(statement: str) -> str:
    return " ".join(statement.split())[:200] if len(statement) > 200 else statement
