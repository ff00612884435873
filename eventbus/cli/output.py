"""stdout is data, stderr is everything else; tables, JSON, errors, exit codes."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.flags import Settings

if TYPE_CHECKING:
    from eventbus.errors import EventBusError

SCHEMA = "eventbus.cli/1"

DONE, FOUND, USAGE, UNREACHABLE, PARTLY, REFUSED, UNKNOWN, BUG = 0, 1, 2, 3, 4, 5, 6, 70

Row = Mapping[str, Any]


def show_rows(
    settings: Settings, command: str, rows: Sequence[Row], columns: Sequence[str]
) -> None:
    """Rows: a table of these columns, or all of their fields as JSON."""
    if settings.output == "jsonl":
        for row in rows:
            click.echo(to_json(row))
    elif settings.output == "json":
        click.echo(envelope(command, list(rows)))
    else:
        show_table(rows, columns, colour=not (settings.no_color or os.environ.get("NO_COLOR")))


def show_facts(settings: Settings, command: str, facts: Row, lines: Iterable[str]) -> None:
    """One thing: lines for a person, the whole of it as JSON."""
    if settings.output == "json":
        click.echo(envelope(command, facts))
    elif settings.output == "jsonl":
        click.echo(to_json(facts))
    else:
        for line in lines:
            click.echo(line)


def note(settings: Settings, text: str) -> None:
    """For the person who watches: stderr, unless --quiet."""
    if not settings.quiet:
        click.echo(text, err=True)


def envelope(command: str, result: Any) -> str:
    """The one object of `-o json`."""
    return to_json({"schema": SCHEMA, "command": command, "result": result, "warnings": []})


def to_json(value: Any) -> str:
    """One line; bytes are text where they are UTF-8, else `{"base64": …}`."""
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        from base64 import b64encode

        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(bytes(value)).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    return str(value)


def show_table(rows: Sequence[Row], columns: Sequence[str], *, colour: bool) -> None:
    """On a terminal cut to its width, with rich where that is installed; piped: never cut."""
    if not sys.stdout.isatty():
        click.echo("\n".join(table(rows, columns)))
        return
    from shutil import get_terminal_size

    lines = table(rows, columns, width=get_terminal_size().columns)
    heading = f"\x1b[1m{lines[0]}\x1b[0m" if colour and _has_rich() else lines[0]
    click.echo("\n".join([heading, *lines[1:]]))


def table(rows: Sequence[Row], columns: Sequence[str], *, width: int | None = None) -> list[str]:
    """Aligned lines under their headings, each at most `width` wide."""
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.upper().replace("_", " ") for column in columns]
    wide = [max(len(line[at]) for line in [heads, *cells]) for at in range(len(columns))]
    lines = [
        "  ".join(text.ljust(size) for text, size in zip(line, wide, strict=True)).rstrip()
        for line in [heads, *cells]
    ]
    if width is None:
        return lines
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def cell(value: Any) -> str:
    """Text without control characters: what a message says must not steer the terminal."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = value if isinstance(value, str) else str(_plain(value))
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _has_rich() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None


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
    return ConfigurationError(
        "EB8001",
        str(getattr(error, "message", error)).rstrip(".").replace("\n", " "),
        where=path,
        why="the command line cannot be understood",
        next=" | ".join([*(f"{path} {one}" for one in close), f"{path} --help"]),
    )


_CODES = {
    "EB2104": UNKNOWN,
    "EB5101": UNKNOWN,
    "EB8002": REFUSED,
    "EB8004": REFUSED,
    "EB8005": REFUSED,
}
_BLOCKS = {"EB2": UNREACHABLE, "EB3": REFUSED, "EB53": REFUSED, "EB5": UNREACHABLE, "EB9": BUG}


def exit_code(error: "EventBusError") -> int:
    """By the code of the error; the longest prefix speaks."""
    if error.code in _CODES:
        return _CODES[error.code]
    return _BLOCKS.get(error.code[:4], _BLOCKS.get(error.code[:3], USAGE))
