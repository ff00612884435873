"""Events of the log as rows: what `event` prints, and which log it asks."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from eventbus.cli.flags import Settings
from eventbus.cli.locate import app_of, called
from eventbus.cli.output import cell, show_rows, to_json
from eventbus.cli.storages import operators_storage
from eventbus.errors import StorageError

if TYPE_CHECKING:
    from eventbus.codec import Registry
    from eventbus.sourcing import EventLog, Recorded

T = TypeVar("T")
COLUMNS = ("position", "recorded_at", "stream", "version", "type", "key", "data")


def with_log(settings: Settings, ask: "Callable[[EventLog], Awaitable[T]]") -> T:
    """Open the operators' storage and ask its log; --timeout is that of opening it.

    With `--app` events are shown as its code reads them; without, as they were recorded.

    Raises:
        StorageError: EB5007, it does not open in time; or what the storage says.
    """
    import asyncio

    from eventbus.sourcing.log import operators_log

    storage = operators_storage(settings)
    registry = _registry(settings)

    async def asked() -> T:
        async with asyncio.timeout(settings.timeout):
            await storage.__aenter__()
        try:
            log = operators_log(storage, registry)
            try:
                return await ask(log)
            finally:
                await log.close()
        finally:
            await storage.__aexit__(None, None, None)

    try:
        return asyncio.run(asked())
    except TimeoutError as error:
        raise StorageError(
            "EB5007",
            f"no answer within {settings.timeout:g} s",
            where=called(),
            why="the database is locked, busy, or cannot be reached",
            next="eventbus doctor | --timeout 60s",
        ) from error


def _registry(settings: Settings) -> "Registry":
    import asyncio

    from eventbus.codec import Registry

    if settings.app is None:
        return Registry()
    types = asyncio.run(app_of(settings).describe()).types
    return Registry(types.classes)  # without keys: personal fields are not shown


def row_of(one: "Recorded") -> dict[str, Any]:
    """Everything that is known of an event; `data` in its current version where it can be read."""
    recorded = one.recorded
    message = recorded.message
    return {
        "position": recorded.position,
        "stream": recorded.stream,
        "version": recorded.version,
        "recorded_at": recorded.recorded_at.isoformat(),
        "id": message.id,
        "type": message.type,
        "schema_version": recorded.schema_version,
        "key": message.key,
        "tenant": message.tenant,
        "correlation_id": message.headers.get("correlationid"),
        "causation_id": message.headers.get("causationid"),
        "source": message.source,
        "data": _data(one),
        "headers": dict(message.headers),
    }


def show_events(settings: Settings, command: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table with the data as JSON, or all of it as JSON."""
    if settings.output == "table":
        rows = [{**row, "data": to_json(row["data"])} for row in rows]
    show_rows(settings, command, rows, COLUMNS)


def line_of(row: dict[str, Any]) -> str:
    """One line for a person."""
    return "  ".join(cell(to_json(row[name]) if name == "data" else row[name]) for name in COLUMNS)


def _data(one: "Recorded") -> Any:
    from eventbus.errors import CodecError

    with suppress(CodecError):  # shown as it was recorded instead
        return one.event.model_dump(mode="json")
    payload = one.recorded.payload
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload
