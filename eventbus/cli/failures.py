"""Errors as lines, or as one line of JSON, on stderr; and the exit codes."""

import re
import sys
from errno import ENOSPC
from typing import TYPE_CHECKING

import click

from eventbus.cli.flags import Settings
from eventbus.cli.output import to_json

if TYPE_CHECKING:
    from eventbus.errors import EventBusError

DONE, FOUND, USAGE, UNREACHABLE, PARTLY, REFUSED, UNKNOWN, BUG = 0, 1, 2, 3, 4, 5, 6, 70


_APP = re.compile(r"unexpected extra argument \(([\w.]+:\w+)\)")


def report(error: Exception, settings: Settings) -> int:
    """An error as its lines, or as one line of JSON, on stderr; the exit code."""
    from eventbus.errors import EventBusError

    known = error if isinstance(error, EventBusError) else _known(error)
    if settings.output == "table":
        click.echo(str(known), err=True)
    else:
        names = ("code", "what", "where", "why", "next", "url")
        click.echo(to_json({name: getattr(known, name) for name in names}), err=True)
    if settings.verbose or known.code == "EB9001":
        from traceback import format_exception

        click.echo("".join(format_exception(error)).rstrip(), err=True)
    return exit_code(known)


def _known(error: Exception) -> "EventBusError":
    from eventbus.errors import ConfigurationError, EventBusError

    if isinstance(error, OSError) and (error.filename is not None or error.errno == ENOSPC):
        return ConfigurationError(
            "EB8001",
            f"a file cannot be used: {error.filename or 'the one that is written'}",
            where=" ".join(["eventbus", *sys.argv[1:2]]),
            why=error.strerror or type(error).__name__,
            next="name another file, or mend what the system says of this one",
        )
    if not isinstance(error, click.ClickException):
        return EventBusError(
            "EB9001",
            f"a bug in eventbus: {type(error).__name__}: {error}",
            where=" ".join(["eventbus", *sys.argv[1:2]]),
            why="the command line did not expect this",
            next="report it with the traceback below and what `eventbus doctor` prints",
        )
    ctx = getattr(error, "ctx", None)
    path = "eventbus" if ctx is None else ctx.command_path
    close = getattr(error, "possibilities", None) or ()
    said = error.message or error.format_message()  # of what is missing click says it there alone
    app = _APP.search(said)
    return ConfigurationError(
        "EB8001",
        " ".join(said.rstrip(".").split()),
        where=path,
        why="the command line cannot be understood",
        next=" | ".join(
            [
                *(f"{path} {one}" for one in close),
                *([f"{path} -A {app[1]} …"] if app else []),
                f"{path} --help",
            ]
        ),
    )


_CODES = {
    "EB2104": UNKNOWN,
    "EB5003": REFUSED,
    "EB5014": REFUSED,
    "EB5016": REFUSED,
    "EB5017": REFUSED,
    "EB5101": UNKNOWN,
    "EB6004": REFUSED,
    "EB6008": REFUSED,
    "EB6009": REFUSED,
    "EB6010": REFUSED,
    "EB6011": FOUND,
    "EB6012": REFUSED,
    "EB6013": REFUSED,
    "EB6014": REFUSED,
    "EB6015": REFUSED,
    "EB6016": REFUSED,
    "EB7067": REFUSED,
    "EB7068": REFUSED,
    "EB8002": REFUSED,
    "EB8004": REFUSED,
    "EB8005": REFUSED,
    "EB8007": REFUSED,
    "EB8009": REFUSED,
    "EB8010": REFUSED,
    "EB4206": PARTLY,
}
_BLOCKS = {"EB2": UNREACHABLE, "EB3": REFUSED, "EB53": REFUSED, "EB5": UNREACHABLE, "EB9": BUG}


def exit_code(error: "EventBusError") -> int:
    """By the code of the error; the longest prefix speaks."""
    if error.code in _CODES:
        return _CODES[error.code]
    return _BLOCKS.get(error.code[:4], _BLOCKS.get(error.code[:3], USAGE))
