"""Joins the caller's SQLAlchemy transaction: AsyncSession, AsyncConnection."""

from typing import Any

from eventbus.errors import UnsafeConfigurationError


async def driver_connection(given: Any) -> tuple[Any, dict[type, Any]] | None:
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
    connection = given
    if isinstance(given, AsyncSession):
        connection = await given.connection()
        resources[AsyncSession] = given
    if not isinstance(connection, AsyncConnection):
        return None
    resources[AsyncConnection] = connection
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise _refused("it is in AUTOCOMMIT: each statement would be a transaction of its own")
    await connection.execute(text("SELECT 1"))
    raw = (await connection.get_raw_connection()).driver_connection
    if not hasattr(raw, "is_in_transaction"):
        raise _refused(f"its driver is {type(raw).__module__}, not asyncpg")
    return raw, resources


async def flush(resources: dict[type, Any]) -> None:
    """Write the session's business rows before our outbox rows, or the order of S2 is gone."""
    for resource in resources.values():
        if hasattr(resource, "flush"):
            await resource.flush()


def after_commit(resources: dict[type, Any], hint: Any) -> bool:
    """Call `hint` once when the caller commits; False: nobody will say."""
    from sqlalchemy import event

    for resource in resources.values():
        if hasattr(resource, "sync_session"):
            event.listen(resource.sync_session, "after_commit", lambda _: hint(), once=True)
            return True
    return False


def _refused(why: str) -> UnsafeConfigurationError:
    return UnsafeConfigurationError(
        "EB5008",
        "the transaction cannot be joined",
        where="bus.transaction(connection)",
        why=why,
        next="hand over an AsyncSession or AsyncConnection on postgresql+asyncpg, in a transaction",
    )
