"""`eventbus`: a lazy group over a table, so that help and completion import no command."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from eventbus.cli.flags import Context, Settings, global_flags

# name -> (module:command, its line in the help)
COMMANDS = {
    "init": ("init:init", "Write a small working project, with a test."),
    "dev": ("dev:dev", "Bus and workers in one process, a line per handled event."),
    "run": ("run:run", "Everything the app declares, until SIGTERM."),
    "outbox": ("outbox:outbox", "What waits for the broker: relay, status, list, retry, pause."),
    "parked": ("parked:parked", "What failed and is tried again, with what waits behind it."),
    "dead-letter": ("dead_letter:dead_letter", "What was given up: list, edit, redrive, discard."),
    "event": ("event:event", "The log: tail, trace, read, search, export, replay."),
    "subject": (
        "subject:subject",
        "Personal data: forget, list the forgotten, rewrap keys.",
    ),
    "projection": ("projection:projection", "Read models: list, status, rebuild, rollback, pause."),
    "saga": ("saga:saga", "Sagas: worker, list, show, retry, compensate, lint, explore."),
    "topology": ("topology:topology", "Topics, exchanges, queues at the broker: plan, apply."),
    "verify": ("verify:verify", "Audit a live system: outbox, inbox, parking, read-only."),
    "crashtest": ("crashtest:crashtest", "Kill your own handlers at every crash point."),
    "db": ("db:db", "The schema of the storage: upgrade, status, check."),
    "schema": ("schema:schema", "Types that travel: list, show, snapshot, check, upcast."),
    "asyncapi": ("asyncapi:asyncapi", "The app as an AsyncAPI document: generate, validate, diff."),
    "describe": ("describe:describe", "Groups, handlers and types of the app."),
    "guarantees": ("guarantees:guarantees", "What each group is promised, and what is unsafe."),
    "explain": ("pages:explain", "The page of an error code."),
    "export": ("exporting:export", "Rules for Prometheus, a dashboard for Grafana."),
    "doctor": ("doctor:doctor", "Configuration, connectivity, schema, backlog."),
    "completion": ("completion:completion", "Completion for bash, zsh or fish."),
}


class Commands(click.Group):
    """A group that answers a mistyped command with what it has."""

    context_class: type[click.Context] = Context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command: the help, as an error."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's, with did-you-mean."""
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            raise _no_command(ctx, name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of definition."""
        return list(self.commands)


class LazyCommands(Commands):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """From the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"eventbus.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table; click's own would import every command for one line each."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """From the table as well."""
        from click.shell_completion import CompletionItem

        return [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ] or super().shell_complete(ctx, incomplete)


eventbus: LazyCommands = LazyCommands(
    "eventbus",
    help="Typed events, exactly-once effects and operations for asyncio.",
    epilog="Global flags may also stand after the command. eventbus COMMAND --help",
    params=[*global_flags(hidden=False)],
)
eventbus = click.version_option(package_name="eventbus", prog_name="eventbus")(eventbus)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (`docs/reference/cli/README.md`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    settings = Settings()
    try:
        _read_env_file(args)
        code = eventbus.main(
            args,
            prog_name="eventbus",
            standalone_mode=False,
            obj=settings,
            terminal_width=_width(),
        )
    except click.Abort:
        return 130  # Ctrl-C, where nothing had to be drained
    except BrokenPipeError:  # the reader had enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the edge: whatever it is becomes lines and an exit code
        from eventbus.cli.failures import report

        return report(error, settings)
    return code if isinstance(code, int) else 0


def _width() -> int:
    from shutil import get_terminal_size

    return max(40, min(get_terminal_size().columns, 100))


def _read_env_file(args: Sequence[str]) -> None:
    """Before click reads the environment, wherever the flag stands."""
    path = os.environ.get("EVENTBUS_ENV_FILE")
    for position, arg in enumerate(args):
        if arg == "--env-file" and position + 1 < len(args):
            path = args[position + 1]
        elif arg.startswith("--env-file="):
            path = arg.partition("=")[2]
    if not path:
        return
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--env-file {path}: {error.strerror}") from error
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            os.environ.setdefault(name.strip(), value.strip().strip("'\""))


def _no_command(ctx: click.Context, name: str, known: Sequence[str]) -> Exception:
    from eventbus.errors import ConfigurationError

    close = get_close_matches(name, known, n=3, cutoff=0.6)
    return ConfigurationError(
        "EB8001",
        f"{ctx.command_path} has no command {name!r}",
        where=f"{ctx.command_path} {name}",
        why=f"there are: {', '.join(known)}",
        next=" | ".join(f"{ctx.command_path} {one}" for one in close)
        or f"{ctx.command_path} --help",
    )
