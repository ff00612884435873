"""`eventbus dev`: bus and workers in one process, a line per handled event."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.flags import Command, Settings, app_argument, http_option, option
from eventbus.cli.locate import app_of, target_of
from eventbus.cli.logs import hear_application, write_logs
from eventbus.cli.output import cell
from eventbus.cli.run import headline, watched

if TYPE_CHECKING:
    from eventbus.bus import Description, EventBus
    from eventbus.codec import Registry
    from eventbus.handler import Invocation


@click.command(cls=Command)
@app_argument
@option("--reload", "reloading", is_flag=True, help="Start again when a .py file changes.")
@click.option("--publish", "published", multiple=True, metavar="'TYPE JSON'", help="At the start.")
@http_option
@click.pass_obj
def dev(
    settings: Settings,
    app: str | None,
    reloading: bool,
    published: tuple[str, ...],
    http: str | None,
) -> int:
    """Run the app here, without a broker if it says memory://; Ctrl-C ends it."""
    if reloading:
        from eventbus.cli.reload import reload

        return reload()
    hear = not settings.quiet
    settings.quiet = settings.quiet or not settings.verbose  # its lines are the output
    write_logs(settings)
    bus = app_of(settings, app)
    instrumentation = bus.instrumentation
    if http is not None:
        from eventbus.cli.health import instrumentation_of

        instrumentation = instrumentation_of(bus)
    bus = bus.replace(middleware=[line_per_event], instrumentation=instrumentation)
    asyncio.run(serve(bus, target_of(settings, app) or "", published, http, hear=hear))
    return 0


async def serve(
    bus: "EventBus", target: str, published: Sequence[str], http: str | None, *, hear: bool
) -> None:
    """Enter, publish, and work until a signal.

    Raises:
        click.UsageError: something to publish cannot be; then nothing was published.
    """
    from eventbus.service import until_signal

    description = await bus.describe()
    parsed = [parse(description.types, text) for text in published]
    names = [text.split()[0] for text in published]
    async with until_signal() as signalled, watched(bus, description, http), bus:
        if hear:
            hear_application(target, description)
        click.echo(headline(target, description))
        for name, (what, data) in zip(names, parsed, strict=True):
            warn_of_nobody(description, name)
            await (bus.publish(what) if data is None else bus.publish(what, data))
        await signalled()


def warn_of_nobody(description: "Description", name: str) -> None:
    """Say it if no handler of the app gets what is published: else nothing would be seen."""
    if any(routes.of(name).handlers for routes in description.groups.values()):
        return
    known = [cls.__wire__.type for cls in description.types.classes if cls.__wire__ is not None]
    close = get_close_matches(name, [one for one in known if one != name], n=1, cutoff=0.6)
    meant = f": is {close[0]} meant?" if close else ""
    click.echo(f"  nobody here handles {name}{meant}", err=True)


def parse(types: "Registry", text: str) -> tuple[Any, dict[str, Any] | None]:
    """`TYPE JSON` as an event of the class that has the type, else as a name and its data.

    Raises:
        click.UsageError: it does not validate, or is no JSON object.
    """
    import json

    from pydantic import ValidationError

    from eventbus.event import Event

    name, _, data = text.strip().partition(" ")
    cls = types.get(name)
    try:
        if cls is not None and issubclass(cls, Event):
            return cls.model_validate_json(data or "{}"), None
        return name, dict(json.loads(data or "{}"))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "data"
        raise click.UsageError(f"--publish {name}: {where}: {first['msg']}") from error
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"--publish {name}: no JSON object: {error}") from error


async def line_per_event(
    invocation: "Invocation", call_next: "Callable[[Invocation], Awaitable[None]]"
) -> None:
    """Say what was handled by whom, and how it went."""
    began = time.perf_counter()
    try:
        await call_next(invocation)
    except Exception as error:  # shown here, and raised on: the bus decides
        say(
            invocation,
            f"failed {type(error).__name__}: {_without_personal_data(error, invocation)}",
        )
        raise
    say(invocation, f"done {(time.perf_counter() - began) * 1000:.1f} ms")


def _without_personal_data(error: Exception, invocation: "Invocation") -> str:
    from eventbus.codec import personal_texts
    from eventbus.personal import without

    what = invocation.what
    return without(str(error), personal_texts(what if isinstance(what, Sequence) else [what]))


def say(invocation: "Invocation", outcome: str) -> None:
    """One line on stdout."""
    context = invocation.context
    message = context.message
    name = getattr(invocation.handler, "__name__", type(invocation.handler).__name__)
    what = f"{message.type} {message.key}" if message.key else message.type
    if isinstance(invocation.what, Sequence) and len(invocation.what) > 1:
        what += f" and {len(invocation.what) - 1} more"
    more = f" (attempt {context.attempt})" if context.attempt > 1 else ""
    click.echo(
        f"  {datetime.now():%H:%M:%S}  {cell(what)}  -> {context.group}.{name}"
        f"  {cell(outcome)}{more}"
    )
