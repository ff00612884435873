"""`eventbus run`: a worker process, from its report at the start to its exit code."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.failures import DONE, PARTLY
from eventbus.cli.flags import Command, Settings, app_argument, worker_flags
from eventbus.cli.locate import app_of, target_of
from eventbus.cli.logs import hear_application, write_logs
from eventbus.cli.output import note
from eventbus.cli.process import (
    collect_rarely,
    ending_early,
    leave_what_hangs,
    loop_factory,
)
from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from eventbus.bus import Description, EventBus


_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The worker flags of one call."""

    groups: tuple[str, ...] = ()
    grace: float = 25.0
    http: str | None = None
    loop: str = "auto"
    lanes: int | None = None
    max_in_flight: int | None = None
    batch: int | None = None
    poll: float | None = None
    roles: tuple[str, ...] = ()


@click.command(cls=Command)
@app_argument
@worker_flags
@click.pass_obj
def run(settings: Settings, /, app: str | None, **flags: Any) -> int:
    """Run everything the app declares; SIGTERM drains, a second signal ends at once.

    \b
    exit 0    everything ended within --grace
    exit 4    --grace was used up; what was given back is delivered again
    """  # noqa: D301 - \b is click's mark for lines that stay
    return work(settings, app, Worker(**flags))


def work(settings: Settings, app: str | None, worker: Worker) -> int:
    """Report, run, drain; the exit code."""
    with ending_early():
        return _work(settings, app, worker)


def _work(settings: Settings, app: str | None, worker: Worker) -> int:
    write_logs(settings)
    bus = tuned(app_of(settings, app), worker)

    async def working() -> bool:
        description = await bus.describe()
        only = services(description, worker)
        if not settings.quiet:
            hear_application(target_of(settings, app) or "", description)
        report(settings, target_of(settings, app) or "", description)
        elsewhere = not_here(description, only)
        if elsewhere:
            note(settings, f"  warn    EB1111  memory:// reaches this process only: {elsewhere}")
        async with watched(bus, description, worker.http):
            saying = asyncio.create_task(announce(settings, bus), name="cli:announce")
            try:
                return await bus.run(only=only, grace=timedelta(seconds=worker.grace))
            finally:
                saying.cancel()

    with asyncio.Runner(loop_factory=loop_factory(worker.loop)) as runner:
        if runner.run(working()):
            return DONE
        leave_what_hangs(runner, PARTLY)
        return PARTLY


async def announce(settings: Settings, bus: "EventBus") -> None:
    """Say once that the bus is ready; from then on collections leave its objects out, and are rare.

    What a worker starts with lives as long as it does: to look through it again and again is up
    to a fifth of the CPU time of a worker of sagas (measured).
    """
    while not (await bus.health()).ready:  # noqa: ASYNC110 - health is asked, nobody tells it
        await asyncio.sleep(_LOOK_SECONDS)
    gc.collect()
    gc.freeze()
    collect_rarely()
    note(settings, "  ready; SIGTERM or Ctrl-C drains")


@asynccontextmanager
async def watched(
    bus: "EventBus", description: "Description", http: str | None
) -> AsyncIterator[None]:
    """Tells of a loop that stands still while the block runs; serves the probes, if asked to."""
    from eventbus.observability.loop_watch import LoopWatch

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(LoopWatch())
        if http is not None:
            from eventbus.cli.health import serving

            host, port = address(http)
            await stack.enter_async_context(serving(bus, host, port, info=facts(description)))
        yield


def tuned(bus: "EventBus", worker: Worker) -> "EventBus":
    """The bus with what the flags change."""
    from eventbus.bus import Tuning

    instrumentation = bus.instrumentation
    if worker.http is not None:
        from eventbus.cli.health import instrumentation_of

        instrumentation = instrumentation_of(bus)
    relay: dict[str, Any] = {}
    if worker.batch is not None:
        relay["relay_batch"] = worker.batch
    if worker.poll is not None:
        relay["relay_poll"] = timedelta(seconds=worker.poll)
    tuning = Tuning(lanes=worker.lanes, max_in_flight=worker.max_in_flight, **relay)
    return bus.replace(tuning=tuning, instrumentation=instrumentation)


def services(description: "Description", worker: Worker) -> Sequence[str] | None:
    """What `bus.run(only=…)` takes.

    Raises:
        ConfigurationError: EB1006, a group that the app does not have.
    """
    for name in worker.groups:
        if name not in description.groups:
            close = get_close_matches(name, description.groups, n=3, cutoff=0.6)
            raise ConfigurationError(
                "EB1006",
                f"the app has no group {name!r}",
                where=f"--group {name}",
                why=f"its groups are: {', '.join(description.groups) or 'none'}",
                next=" | ".join(f"--group {one}" for one in close) or "eventbus describe",
            )
    only = [*worker.roles, *(f"consumer:{name}" for name in worker.groups)]
    return only or None


def not_here(description: "Description", only: Sequence[str] | None) -> str:
    """Groups that do not run though only this process could hand them what it publishes."""
    if description.transport != "memory" or only is None:
        return ""
    runs = {one.partition(":")[2] for one in only}
    runs |= {one.saga for one in description.sagas if "saga" in only}
    left = [name for name in description.groups if name not in runs]
    return f"what is for {', '.join(left)} waits until they run too" if left else ""


def address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080`; a bare `:8080` is all interfaces.

    Raises:
        click.UsageError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--http {text}: write HOST:PORT, or :PORT for all interfaces")
    return host.strip("[]"), int(port)


def report(settings: Settings, target: str, description: "Description") -> None:
    """The guarantee report, a line per finding, on stderr."""
    note(settings, headline(target, description))
    for finding in description.findings:
        note(settings, f"  {finding.level:<6}  {finding.code}  {finding.what}")


def headline(target: str, description: "Description") -> str:
    """One line: version, app, where it runs, what it has."""
    from importlib.metadata import version

    handlers = sum(len(routes.handlers) for routes in description.groups.values())
    types = len(description.types.classes)
    place = [f"{name}://" for name in (description.transport, description.storage) if name]
    counts = f"{handlers} handler{'s' * (handlers != 1)}, {types} type{'s' * (types != 1)}"
    return f"  eventbus {version('eventbus')}   {target}   {' + '.join(place)}   {counts}"


def facts(description: "Description") -> dict[str, Any]:
    """What /info answers: no URL, for it may hold a password."""
    from importlib.metadata import version

    return {
        "version": version("eventbus"),
        "service": description.service,
        "transport": description.transport,
        "storage": description.storage,
        "groups": sorted(description.groups),
    }
