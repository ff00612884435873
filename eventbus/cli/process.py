"""What a long-running command sets up: logs on stderr, and the event loop."""

import asyncio
import logging
from collections.abc import Callable
from importlib import import_module

from eventbus.cli.flags import Settings
from eventbus.errors import MissingExtraError


def write_logs(settings: Settings) -> None:
    """Logs to stderr: lines for people, JSON lines where the output is JSON."""
    from eventbus.observability.logging import JsonFormatter, LineFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter() if settings.output == "table" else JsonFormatter())
    logger = logging.getLogger("eventbus")
    logger.addHandler(handler)
    logger.propagate = False
    level = logging.ERROR if settings.quiet else logging.INFO
    logger.setLevel(logging.DEBUG if settings.verbose else level)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The one of uvloop where it is wanted and installed; None: asyncio's own.

    Raises:
        MissingExtraError: EB1005, it is wanted by name and not installed.
    """
    if name == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError as error:
        if name == "auto":
            return None
        raise MissingExtraError(
            "EB1005",
            "uvloop is not installed",
            where="--loop uvloop",
            why="it is no dependency of eventbus",
            next="pip install uvloop | --loop auto",
        ) from error
    return factory
