"""stdout is data, stderr is everything else: tables, JSON, notes."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from eventbus.cli.flags import Settings
from eventbus.sealing import hidden

SCHEMA = "eventbus.cli/1"

Row = Mapping[str, Any]
_PARTS = re.compile(r"\n  (where|why|next) +")  # of one of our errors, as in a log: on one line


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
    """One line; bytes are text where they are UTF-8, else `{"base64": …}`.

    Sealed personal data are hidden: nobody could read them here, and nobody is to copy them.
    """
    return hidden(json.dumps(value, default=_plain, ensure_ascii=False))


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
    if colour and _show_bold(lines[0]):
        lines = lines[1:]
    for line in lines:
        click.echo(line)


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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return ", ".join(map(cell, value)) or "-"
    text = hidden(value if isinstance(value, str) else str(_plain(value)))
    text = _PARTS.sub(r" · \1: ", text)
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _show_bold(line: str) -> bool:
    """With rich, the extra `cli`; False where it is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return False
    Console(highlight=False).print(line, style="bold", markup=False, soft_wrap=True)
    return True
