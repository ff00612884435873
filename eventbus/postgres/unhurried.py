"""Statements of a rebuild that may take an hour: an index, a comparison."""

from functools import partial
from typing import Any

from eventbus.postgres.session import Session

LONG_SECONDS = 3600.0


async def execute_unhurried(session: Session, statement: str, *, where: str) -> None:
    """A statement, without the time-out that the others have."""
    await _unhurried(session, where)
    connection = await session.raw()
    await session.run(partial(connection.execute, timeout=LONG_SECONDS), statement, where=where)


async def fetch_unhurried(session: Session, statement: str, *args: Any, where: str) -> list[Any]:
    """The same, with its rows."""
    await _unhurried(session, where)
    connection = await session.raw()
    fetch = partial(connection.fetch, timeout=LONG_SECONDS)
    rows: list[Any] = await session.run(fetch, statement, *args, where=where)
    return rows


async def _unhurried(session: Session, where: str) -> None:
    await session.execute("SET LOCAL statement_timeout = 0", where=where)
