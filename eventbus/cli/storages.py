"""The storage that operators look into, beside a bus that may be running."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from eventbus.cli.flags import Settings
from eventbus.cli.locate import app_of, called, target_of
from eventbus.cli.output import note
from eventbus.errors import ConfigurationError, EventBusError, StorageError

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.inspection import Inspected
    from eventbus.storage import Storage

T = TypeVar("T")


def with_storage(settings: Settings, ask: "Callable[[Inspected], Awaitable[T]]") -> T:
    """Open the operators' storage, ask it once, close it; all within --timeout.

    Raises:
        StorageError: EB5007, no answer in time; or what the storage says.
    """
    storage = operators_storage(settings)

    async def asked() -> T:
        async with asyncio.timeout(settings.timeout), storage:
            return await ask(storage)

    try:
        return asyncio.run(asked())
    except TimeoutError as error:
        raise _no_answer(settings) from error


def operators_storage(settings: Settings, app: str | None = None) -> "Inspected":
    """The storage by --storage, else that of the app, opened beside a bus that runs; not entered.

    Raises:
        ConfigurationError: EB8001, there is none; EB1006, it lives in another process's memory.
    """
    from eventbus.storage import open_storage

    if settings.storage is not None:
        return beside(open_storage(settings.storage, "operator"))
    storage = app_of(settings, app).storage if target_of(settings, app) is not None else None
    if storage is None:
        raise ConfigurationError(
            "EB8001",
            "no storage was named",
            where=called(),
            why="neither --storage, nor EVENTBUS_STORAGE, nor an app that has one",
            next="--storage sqlite:///app.db | --storage postgresql://host/db | --app app:bus",
        )
    return beside(storage)


def kept(
    settings: Settings,
    verb: str,
    what: "Mapping[str, Any]",
    *,
    changed: int,
    reason: str,
    app: str | None = None,
) -> None:
    """An audit row of what was done at a broker, if there is a storage to keep it.

    The work is done by then: a row that cannot be written is told, and fails nothing.
    """

    async def keep(storage: "Inspected") -> None:
        async with asyncio.timeout(settings.timeout), storage:
            await storage.inspection.note(verb, what, changed=changed, actor=actor(), reason=reason)

    try:
        asyncio.run(keep(operators_storage(settings, app)))
    except TimeoutError:
        note(settings, f"not in the audit: {_no_answer(settings).what}")
    except EventBusError as error:
        if error.code != "EB8001":  # none was named
            note(settings, f"not in the audit: {error.code} {error.what}")


def actor() -> str:
    """Who asks, for the audit: user@host."""
    import getpass
    import socket

    user = "unknown"
    with suppress(OSError, KeyError, ImportError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def with_bus(
    settings: Settings,
    bus: "EventBus",
    ask: "Callable[[EventBus], Awaitable[T]]",
    *,
    why: str,
) -> T:
    """Ask a bus that is not entered, its storage open beside workers that may run.

    Args:
        settings: the time to open it.
        bus: the app's.
        ask: one question.
        why: what stands in the storage, for the error.

    Raises:
        ConfigurationError: EB8001, the app has no storage.
        StorageError: EB5007, it does not open in time.
    """
    if bus.storage is None:
        raise ConfigurationError(
            "EB8001",
            "the app has no storage",
            where=called(),
            why=why,
            next="--storage sqlite:///app.db | --storage postgresql://host/db",
        )

    storage = beside(bus.storage)
    there = bus.replace(storage=storage)

    async def asked() -> T:
        async with asyncio.timeout(settings.timeout):
            await storage.__aenter__()
        try:
            return await ask(there)
        finally:
            await storage.__aexit__(None, None, None)

    try:
        return asyncio.run(asked())
    except TimeoutError as error:
        raise _no_answer(settings) from error


def beside(storage: "Storage") -> "Inspected":
    """The same database for an operator: SQLite without the lock of the bus, without upgrading."""
    from eventbus.sqlite import SqliteStorage

    if not isinstance(storage, SqliteStorage):
        return cast("Inspected", storage)
    if storage.path is None:
        raise ConfigurationError(
            "EB1006",
            "a database in memory cannot be looked into from outside",
            where="storage sqlite://",
            why="it lives and ends with the process of the bus",
            next="--storage sqlite:///app.db",
        )
    return SqliteStorage(storage.path, inspect_only=True)


def _no_answer(settings: Settings) -> StorageError:
    return StorageError(
        "EB5007",
        f"no answer within {settings.timeout:g} s",
        where=called(),
        why="the database is locked, busy, or cannot be reached",
        next="eventbus doctor | --timeout 60s",
    )
