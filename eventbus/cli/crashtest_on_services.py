"""`eventbus crashtest --real`: what it runs on, and what it says meanwhile."""

import asyncio
import sys
from typing import TYPE_CHECKING, cast

import click

from eventbus.cli.flags import Settings
from eventbus.cli.helping import environment
from eventbus.cli.locate import called, target_of
from eventbus.cli.output import note
from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.testing.crashtest import Report, Trial
    from eventbus.testing.crashtest.on_services import Broker

_BROKERS = ("kafka", "rabbit")


def refuse_others(settings: Settings) -> None:
    """What outlives its processes, and what has a place for each run, is tested on."""
    storage = settings.storage
    if storage and not storage.startswith(("postgresql:", "postgres:")):
        raise click.UsageError("real crash tests run on PostgreSQL: --storage postgresql://…")


def explored_on_services(
    settings: Settings, app: "EventBus", what: str, points: list[str], depth: int
) -> "Report":
    """Run them, a line for each on stderr.

    Raises:
        UsageError: nobody says at which broker.
        ConfigurationError: EB8014, a process failed by itself; EB1301 to EB1303, the services.
    """
    from eventbus.testing.crashtest.on_services import (
        Process,
        ProcessError,
        crashtest_on,
        services,
    )

    process = Process(
        command=(sys.executable, "-m", "eventbus.cli.crashtest_process"),
        environment=environment(settings),
        app=str(target_of(settings)),
        scenario=what,
        loud=bool(settings.verbose),
    )

    def told(trial: "Trial") -> None:
        note(settings, f"  {trial}  {trial.outcome}")

    given = settings.transport
    with services(_broker(app), broker_url=given, postgres_url=settings.storage) as there:
        note(settings, f"on {there.broker} and PostgreSQL; each run takes some seconds")
        try:
            return asyncio.run(crashtest_on(there, process, points=points, depth=depth, told=told))
        except ProcessError as error:
            said = f"a process fails by itself: {error}"
            raise fails_by_itself(said, "", what) from error


def fails_by_itself(said: str, place: str, what: str) -> ConfigurationError:
    """EB8014."""
    return ConfigurationError(
        "EB8014",
        said,
        where=f"{place}{called()} {what}",
        why="what fails by itself says nothing about crashes",
        next="mend it; -v shows the traceback",
    )


def _broker(app: "EventBus") -> "Broker":
    from eventbus.bus.report import scheme_of

    scheme = scheme_of(app.transport)
    if scheme not in _BROKERS:
        raise click.UsageError(
            f"{scheme}:// dies with its process: name a broker for tests,"
            " --transport kafka://… or amqp://…"
        )
    return cast("Broker", scheme)
