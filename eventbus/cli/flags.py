"""What every command can be told: global flags, worker flags, and the types of their values."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/s)?")


FORMS = click.Choice(["table", "json", "jsonl"])


_MARK = "global_"  # a command may have a parameter of the same name


class Duration(click.ParamType[float]):
    """`25s`, `500ms`, `2m`; a bare number is seconds. The value is in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        if (match := _DURATION.fullmatch(value.strip())) is None:
            self.fail(f"{value!r} is no duration; write 25s, 500ms or 2m", param, ctx)
        return float(match[1]) * _SECONDS[match[2] or "s"]


class Rate(click.ParamType[float]):
    """`50/s`, or `50`."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Per second."""
        if isinstance(value, int | float):
            return float(value)
        match = _RATE.fullmatch(value.strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no rate; write 50/s", param, ctx)
        return float(match[1])


class Settings:
    """The global flags of one call; a flag after the command wins over one before it."""

    def __init__(self) -> None:
        self.app: str | None = None
        self.transport: str | None = None
        self.storage: str | None = None
        self.env_file: str | None = None
        self.output = "table"
        self.quiet = False
        self.verbose = False
        self.no_color = False
        self.yes = False
        self.dry_run = False
        self.timeout: float = 10.0  # seconds


class _Formatter(click.HelpFormatter):
    """Leaves room for the text where the terminal is narrow."""

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Click's, with a first column of at most three eighths."""
        super().write_dl(rows, min(col_max, self.width * 3 // 8), col_spacing)


class Context(click.Context):
    """Click's, with our help."""

    formatter_class: type[click.HelpFormatter] = _Formatter


def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Remember a global flag that was really given, on the command line or by the environment."""
    name = str(param.name)
    if value is not None and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
        setattr(ctx.ensure_object(Settings), name.removeprefix(_MARK), value)


def global_flags(*, hidden: bool) -> list[click.Option]:
    """The global flags; hidden, they are accepted after a command as well, without a line of help.

    Only the visible ones read the environment: read again further right they would win over a flag.
    """

    def flag(*names: str, help: str, **more: Any) -> click.Option:
        envvar = None if hidden else variable_of(names[0])
        return click.Option(
            [*names, f"{_MARK}{names[0].lstrip('-').replace('-', '_')}"],
            help=f"{help}  ${envvar}",
            hidden=hidden,
            expose_value=False,
            callback=keep,
            envvar=envvar,
            **more,
        )

    return [
        flag("--app", "-A", metavar="MODULE:NAME", help="The bus; else [tool.eventbus] app."),
        flag("--transport", metavar="URL", help="Instead of the transport of the bus."),
        flag("--storage", metavar="URL", help="Instead of the storage of the bus."),
        flag("--env-file", metavar="FILE", help="NAME=VALUE lines; what is set already stays."),
        flag("--output", "-o", type=FORMS, help="Form of stdout."),
        flag("--quiet", "-q", is_flag=True, help="Only errors on stderr."),
        flag("--verbose", "-v", is_flag=True, help="More on stderr, with tracebacks."),
        flag("--no-color", is_flag=True, help="Plain text on a terminal; NO_COLOR does the same."),
        flag("--yes", is_flag=True, help="Do not ask before a change."),
        flag("--dry-run", is_flag=True, help="Say what a change would touch."),
        flag("--timeout", type=Duration(), help="Of one request to broker or database; 10s."),
    ]


class Command(click.Command):
    """A command that takes the global flags too."""

    context_class: type[click.Context] = Context

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {name for param in self.params for name in param.opts}
        self.params.extend(flag for flag in global_flags(hidden=True) if own.isdisjoint(flag.opts))
        self.epilog = "Global flags go here too: eventbus --help"


def variable_of(flag: str) -> str:
    """The environment variable of a flag: EVENTBUS_<FLAG>."""
    return f"EVENTBUS_{flag.lstrip('-').upper().replace('-', '_')}"


def option(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    """An option with its environment variable, shown in the help.

    Flags that select what a change touches are plain `click.option`s: a variable that somebody left
    behind must not widen a change.
    """
    envvar = variable_of(names[0])
    return click.option(*names, envvar=envvar, help=f"{help}  ${envvar}", **more)


def all_of(decorators: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """Apply decorators so that they read downwards."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

app_argument: Decorator = click.argument("app", required=False, metavar="[APP]")

http_option: Decorator = option(
    "--http", metavar="HOST:PORT", help="Serve /livez, /readyz, /metrics and /info."
)

worker_flags: Decorator = all_of(
    [
        option("--group", "groups", multiple=True, help="Only these groups; repeat it."),
        option("--lanes", type=click.IntRange(1), help="Keys at once, of every group."),
        option("--max-in-flight", type=click.IntRange(1), help="Messages at once, of every group."),
        option(
            "--grace", type=Duration(), default="25s", show_default=True, help="To end what runs."
        ),
        http_option,
        option(
            "--loop",
            type=click.Choice(["auto", "asyncio", "uvloop"]),
            default="auto",
            show_default=True,
            help="auto: uvloop where it is installed.",
        ),
    ]
)
