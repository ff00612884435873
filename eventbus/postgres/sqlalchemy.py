"""Joins the caller's SQLAlchemy transaction: AsyncSession, AsyncConnection."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from eventbus.errors import UnsafeConfigurationError


async def driver_connection(given: object) -> tuple[Any, dict[type, Any]] | None:
    """The asyncpg connection of an AsyncSession or AsyncConnection, its transaction begun.

    SQLAlchemy begins lazily: after `session.begin()` the driver's connection is in no transaction
    until a statement ran through it, so one is sent. None: it is neither.

    Raises:
        UnsafeConfigurationError: EB5008, AUTOCOMMIT, or another driver than asyncpg.
    """
    try:
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    except ImportError:
        return None
    resources: dict[type, Any] = {}
    if isinstance(given, AsyncSession):
        resources[AsyncSession] = given
        given = await given.connection()
    if not isinstance(given, AsyncConnection):
        return None
    resources[AsyncConnection] = given
    raw: Any = (await given.get_raw_connection()).driver_connection
    if not hasattr(raw, "is_in_transaction"):
        raise not_accepted(f"its driver is {type(raw).__module__}, not asyncpg")
    await given.execute(text("SELECT 1"))
    if not raw.is_in_transaction():
        raise not_accepted("it is in AUTOCOMMIT: each statement would be a transaction of its own")
    return raw, resources


async def flush(resources: Mapping[type, Any]) -> None:
    """Write the session's business rows before our outbox rows, or the order of S2 is gone."""
    for resource in resources.values():
        if hasattr(resource, "flush"):
            await resource.flush()


def after_commit(resources: Mapping[type, Any], hint: Callable[[], None]) -> bool:
    """Call `hint` once, when the session's transaction is committed; False: nobody will say."""
    session = next((one.sync_session for one in resources.values() if _is_session(one)), None)
    if session is None:
        return False
    from sqlalchemy import event

    loop = asyncio.get_running_loop()

    def committed(of: Any) -> None:
        if of.in_nested_transaction():  # a savepoint's release says nothing
            return
        hint()
        loop.call_soon(_forget, event, session, committed)  # not while they are gone through

    event.listen(session, "after_commit", committed)
    return True


def _forget(event: Any, session: Any, committed: Callable[[Any], None]) -> None:
    if event.contains(session, "after_commit", committed):
        event.remove(session, "after_commit", committed)


def not_accepted(why: str) -> UnsafeConfigurationError:
    """What cannot be joined."""
    return UnsafeConfigurationError(
        "EB5008",
        "the transaction cannot be joined",
        where="bus.transaction(connection)",
        why=why,
        next="hand over an asyncpg connection, AsyncSession or AsyncConnection in a transaction",
    )


def _is_session(resource: Any) -> bool:
    return hasattr(resource, "sync_session")
