"""Pages that are made from the code: `python -m tests.docs.generated` writes them anew."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from eventbus.cli.flags import global_flags
from eventbus.cli.main import eventbus
from tests.docs.pages import ROOT
from tests.docs.surroundings import capabilities_page, environment_page
from tests.faults.matrix import ROWS, SUITES

EXPLAIN = ROOT / "eventbus" / "cli" / "explain"
HINT = "<!-- made from the code: python -m tests.docs.generated -->"
BLOCKS = {
    "EB10": "Loading and URLs",
    "EB11": "Guarantees",
    "EB12": "Types, handlers, groups",
    "EB13": "Test services",
    "EB2": "Transport",
    "EB3": "Codec and schema",
    "EB41": "Handling",
    "EB42": "Event sourcing",
    "EB50": "Storage",
    "EB51": "Commits",
    "EB52": "Leases",
    "EB53": "Database schema",
    "EB60": "Projections",
    "EB70": "Sagas",
    "EB8": "Command line",
    "EB9": "Bugs",
}


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Command line",
        HINT,
        "Every command with its arguments and flags. `APP` is `module:attribute`. What scripts may "
        "rely on, streams, exit codes, JSON schemas, how a changing command asks: "
        "[conventions](cli/README.md). `eventbus explain CODE` prints the page of an "
        "[error](errors.md).",
        "## Global flags",
        "Before the command or after it.",
        options(global_flags(hidden=False)),
    ]
    ctx = click.Context(eventbus, info_name="eventbus")
    for path, command in walk(eventbus, ctx, "eventbus"):
        parts += section(path, command)
    return "\n\n".join(parts) + "\n"


def walk(group: click.Group, ctx: click.Context, path: str) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from walk(command, ctx, f"{path} {name}")


def section(path: str, command: click.Command) -> Iterator[str]:
    level = "##" if path.count(" ") == 1 else "###"
    yield f"{level} {path}"
    yield " ".join((command.help or "").partition("\b")[0].split())
    if isinstance(command, click.Group):
        return
    ctx = click.Context(command, info_name=path)
    pieces = [piece for piece in command.collect_usage_pieces(ctx) if piece != "[OPTIONS]"]
    own = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    shown = " ".join([path, *pieces, *(["[OPTIONS]"] if own else [])])
    yield f"```text\n{shown}\n```"
    if own:
        yield options(own)


def options(found: list[click.Option]) -> str:
    lines = ["| flag | meaning |", "| --- | --- |"]
    for option in found:
        names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
        wanted = "" if option.is_flag else f" {metavar(option)}"
        text = (option.help or "").replace("|", "\\|").replace("  $", " $")
        text = re.sub(r"\$(EVENTBUS_\w+)", r"`\1`", text)
        default = f" Default: {option.default}." if option.show_default else ""
        lines.append(f"| {names}{wanted} | {text}{default} |")
    return "\n".join(lines)


def metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar.replace("|", "\\|")
    if isinstance(option.type, click.Choice):
        return "\\|".join(str(choice) for choice in option.type.choices)
    return "N" if isinstance(option.type, click.IntRange) else option.type.name.upper()


def errors_page() -> str:
    """Every code by its block, with the title of its page."""
    parts = [
        "# Errors",
        HINT,
        "An error says what happened, where, why, and what to do next, in this order; its code "
        "leads to a page, which `eventbus explain CODE` prints too. Codes are never reused. A code "
        "names a condition, its class a way to react: see [the API](api.md#errors).",
        "```text\n"
        "EB4104 bus.publish in a task that holds a unit of work\n"
        "  where shop/orders.py:31 in place_order\n"
        "  why   it would be a transaction of its own: published though yours rolls back, …\n"
        "  next  await tx.publish(…); in a handler: await ctx.publish(…)\n"
        "```",
    ]
    titles = {page.stem: title_of(page) for page in sorted(EXPLAIN.glob("EB*.md"))}
    for block, heading in BLOCKS.items():
        rows = [
            f"| [{code}](../../eventbus/cli/explain/{code}.md) | {title} |"
            for code, title in titles.items()
            if code.startswith(block)
        ]
        if rows:
            parts += [f"## {heading}", "\n".join(["| code | condition |", "| --- | --- |", *rows])]
    return "\n\n".join(parts) + "\n"


def title_of(page: Path) -> str:
    first = page.read_text(encoding="utf-8").partition("\n")[0]
    return first.partition(": ")[2].replace("|", "\\|")


def codes_in_the_source() -> set[str]:
    packages = ("eventbus", "eventbus_kafka", "eventbus_rabbit")
    files = (file for package in packages for file in (ROOT / package).rglob("*.py"))
    return {code for file in files for code in re.findall(r"\bEB\d{4}\b", file.read_text("utf-8"))}


def matrix_page() -> str:
    """What is broken on purpose, and by which tests."""
    told = (
        "What can go wrong, and the tests that make it go wrong on purpose. `make faults` runs all "
        "in their full form and writes `build/fault-matrix.json`: of each row what became of it, "
        "how long it took, tests, tier and seed. A row that nothing ran for fails the run. "
        "`make test` runs most of them in a short form. What each is to leave as it was: "
        "[guarantees](../guarantees.md)."
    )
    rows = [
        f"| {row.number} | {row.fault} | {'<br>'.join(map(linked, row.tests))} |" for row in ROWS
    ]
    table = "\n".join(["| | what breaks | tests |", "| --- | --- | --- |", *rows])
    return "\n\n".join(["# Fault matrix", HINT, told, table]) + "\n"


def linked(test: str) -> str:
    file, _, name = test.partition("::")
    there = "eventbus/testing/conformance" if file == SUITES else file
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../../{there})"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "errors.md": errors_page,
    "fault-matrix.md": matrix_page,
    "environment.md": lambda: environment_page(HINT),
    "capabilities.md": lambda: capabilities_page(HINT),
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (ROOT / "docs" / "reference" / name).write_text(make(), encoding="utf-8")
