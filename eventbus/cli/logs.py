"""Logs of a worker on stderr: ours, and those of an application that set none up."""

import logging
from typing import TYPE_CHECKING

from eventbus.cli.flags import Settings

if TYPE_CHECKING:
    from eventbus.bus import Description


def write_logs(settings: Settings) -> None:
    """Lines for people, JSON lines where the output is JSON.

    In this form stands too what others log and nobody writes: Python's last resort has no form.
    """
    from eventbus.observability.logging import JsonFormatter, LineFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter() if settings.output == "table" else JsonFormatter())
    logger = logging.getLogger("eventbus")
    logger.addHandler(handler)
    logger.propagate = False
    level = logging.ERROR if settings.quiet else logging.INFO
    logger.setLevel(logging.DEBUG if settings.verbose else level)
    logging.lastResort = handler


def hear_application(target: str, description: "Description") -> None:
    """Let the application's own loggers speak from INFO on, unless it has set logging up itself.

    Only packages that hold the app, its handlers or its types: libraries stay at WARNING.
    """
    if logging.getLogger().handlers:
        return
    for package in _packages(target, description):
        logger = logging.getLogger(package)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def _packages(target: str, description: "Description") -> set[str]:
    calls = (each.call for routes in description.groups.values() for each in routes.handlers)
    modules = (getattr(each, "__module__", None) for each in (*calls, *description.types.classes))
    names = (target.partition(":")[0], *(each or "" for each in modules))
    return {name.partition(".")[0] for name in names} - {"eventbus", ""}
