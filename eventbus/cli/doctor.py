"""`eventbus doctor`: what can be found out without looking at any message."""

import asyncio
import platform
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventbus.cli.checks import Check, check, clock, failed, seconds_ahead
from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, app_argument
from eventbus.cli.locate import app_of, target_of
from eventbus.cli.output import show_rows
from eventbus.cli.storages import beside, operators_storage
from eventbus.cli.subject import brought_back, listed_in
from eventbus.errors import EventBusError

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.inspection import Inspected
    from eventbus.sealing import Subject

Listed = tuple[Path, "list[Subject]"] | None
_OLD_SECONDS = 60.0  # an outbox whose oldest row is older is not relayed


@click.command(cls=Command)
@click.option(
    "--forgotten",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The list kept outside: whether a restored backup brought keys back.",
)
@app_argument
@click.pass_obj
def doctor(settings: Settings, app: str | None, forgotten: Path | None) -> int:
    """Configuration, connectivity, schema and backlog; exit 1 if something is wrong."""
    listed = None if forgotten is None else (forgotten, listed_in(forgotten))
    rows = asyncio.run(_all(settings, app, listed))
    show_rows(settings, "doctor", rows, ("check", "status", "what", "next"))
    return FOUND if any(row["status"] == "fail" for row in rows) else DONE


async def _all(settings: Settings, app: str | None, listed: Listed) -> list[Check]:
    about = f"eventbus {version('eventbus')}, Python {platform.python_version()}"
    return [
        check("versions", "ok", f"{about}, {platform.system()}"),
        *[row async for row in _checks(settings, app, listed)],
    ]


async def _checks(settings: Settings, app: str | None, listed: Listed) -> AsyncIterator[Check]:
    if target_of(settings, app) is not None:
        try:
            bus = app_of(settings, app)
            async for row in _of_app(settings, bus):
                yield row
            if listed is not None and bus.storage is not None:
                yield await _forgotten(settings, beside(bus.storage), *listed)
        except EventBusError as error:
            yield failed("app", error)
    elif settings.storage is not None:
        try:
            storage = operators_storage(settings)
        except EventBusError as error:
            yield failed("storage", error)
        else:
            async for row in _storage(settings, storage):
                yield row
            if listed is not None:
                yield await _forgotten(settings, operators_storage(settings), *listed)
    else:
        yield check("app", "skip", "no app and no storage was named", "eventbus doctor app:bus")


async def _of_app(settings: Settings, bus: "EventBus") -> AsyncIterator[Check]:
    description = await bus.describe()
    yield check(
        "app", "ok", f"groups: {len(description.groups)}, transport {description.transport}"
    )
    for finding in description.findings:
        if finding.level != "say":
            status = "fail" if finding.level == "refuse" else "warn"
            yield check("guarantees", status, f"{finding.code} {finding.what}", finding.next)
    yield await _transport(settings, bus)
    if bus.storage is None:
        yield check("storage", "skip", "the app has none")
    elif not bus.storage.capabilities.durable:
        yield check("storage", "ok", "in memory: ends with the process")
    else:
        async for row in _storage(settings, beside(bus.storage)):
            yield row


async def _transport(settings: Settings, bus: "EventBus") -> Check:
    try:
        async with asyncio.timeout(settings.timeout), bus.transport as transport:
            return check("transport", "ok", transport.trouble or "can be reached")
    except EventBusError as error:
        return failed("transport", error)
    except TimeoutError:
        return check("transport", "fail", f"no answer within {settings.timeout:g} s", "--timeout")


async def _storage(settings: Settings, storage: "Inspected") -> AsyncIterator[Check]:
    try:
        async with asyncio.timeout(settings.timeout), storage:
            figures = await storage.inspection.figures()
            ahead = await seconds_ahead(storage)
    except EventBusError as error:
        yield failed("storage", error)
    except TimeoutError:
        yield check("storage", "fail", f"no answer within {settings.timeout:g} s", "--timeout")
    else:
        yield _backlog(figures)
        if ahead is not None:
            yield clock(ahead)


def _backlog(figures: Mapping[str, float]) -> Check:
    pending, age = figures["outbox_pending_messages"], figures["outbox_oldest_age_seconds"]
    letters = sum(value for name, value in figures.items() if name.startswith("dead_letters"))
    what = f"schema up to date, outbox {pending:.0f} ({age:.0f} s), dead letters {letters:.0f}"
    if pending and age > _OLD_SECONDS:
        return check("storage", "warn", what, "is a relay running, or paused? outbox status")
    if letters:
        return check("storage", "warn", what, "eventbus dead-letter list --by fingerprint")
    return check("storage", "ok", what)


async def _forgotten(
    settings: Settings, storage: "Inspected", file: Path, subjects: "list[Subject]"
) -> Check:
    """A restored backup brings destroyed keys back: only a list kept outside can tell."""
    try:
        async with asyncio.timeout(settings.timeout), storage:
            back = await brought_back(storage, subjects)
    except EventBusError as error:
        return failed("forgotten", error)
    except TimeoutError:
        return check("forgotten", "fail", f"no answer within {settings.timeout:g} s", "--timeout")
    if back:
        what = f"{len(back):,} of {len(subjects):,} forgotten subjects can be read again"
        return check("forgotten", "fail", what, f"eventbus subject forget --from {file}")
    return check("forgotten", "ok", f"{len(subjects):,} subjects, all of them forgotten here")
