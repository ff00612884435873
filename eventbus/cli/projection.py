"""`eventbus projection`: where read models stand; rebuild, switch, undo."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventbus.cli.changing import confirm
from eventbus.cli.flags import Command, Rate, Settings, all_of, app_argument
from eventbus.cli.helping import helpers
from eventbus.cli.locate import app_of
from eventbus.cli.main import Commands
from eventbus.cli.output import note, show_facts, show_rows
from eventbus.cli.process import collect_rarely
from eventbus.cli.rebuilding import Bar, outcome_lines
from eventbus.cli.storages import actor, with_bus

if TYPE_CHECKING:
    from eventbus.sourcing.projector import Projector
    from eventbus.sourcing.standing import Standing
    from eventbus.storage.projections import Difference

T = TypeVar("T")
WATCH_SECONDS = 1.0
_COLUMNS = ("name", "runs", "version", "shards", "lag_events", "lag_seconds", "parked", "cause")


class Since(click.ParamType["int | datetime"]):
    """A position of the log, or a time."""

    name = "pos|time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "int | datetime":
        """A number is a position; a time without an offset is UTC."""
        if isinstance(value, int | datetime):
            return value
        if value.isdecimal():
            return int(value)
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither; write 1042 or 2026-11-26T14:00", param, ctx)
        return told if told.tzinfo is not None else told.replace(tzinfo=UTC)


@click.group(cls=Commands)
def projection() -> None:
    """Read models: where they stand, and making their rows anew."""


@projection.command("list", cls=Command)
@app_argument
@click.pass_obj
def list_(settings: Settings, app: str | None) -> None:
    """All projections of the app, with their lag and its cause."""
    found = _with_projector(settings, app, lambda projector: projector.list())
    show_rows(settings, "projection list", [_row(one) for one in found], _COLUMNS)


@projection.command(cls=Command)
@click.argument("name", required=False)
@app_argument
@click.option("--watch", is_flag=True, help="Again each second, until Ctrl-C.")
@click.pass_obj
def status(settings: Settings, name: str | None, app: str | None, watch: bool) -> None:
    """Where one stands, shard by shard; without a name, or with the app alone, all of them."""
    if name is not None and app is None and ":" in name:
        name, app = None, name

    async def look(projector: "Projector") -> None:
        while True:
            rows = list(await projector.list()) if name is None else [await projector.status(name)]
            for one in rows:
                show_facts(settings, "projection status", _row(one), _lines(one))
            if not watch:
                return
            await asyncio.sleep(WATCH_SECONDS)

    _with_projector(settings, app, look)


@projection.command(cls=Command)
@click.argument("name")
@app_argument
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def pause(settings: Settings, name: str, app: str | None, reason: str) -> None:
    """Let it stand still within a few seconds; nothing is lost."""
    _change(
        settings,
        app,
        "pause",
        name,
        lambda projector: projector.pause(name, actor=actor(), reason=reason),
    )


@projection.command(cls=Command)
@click.argument("name")
@app_argument
@click.option("--reason", default="", help="Why, for the audit.")
@click.option("--accept", is_flag=True, help="Its rows are those of this code and this database.")
@click.pass_obj
def resume(settings: Settings, name: str, app: str | None, reason: str, accept: bool) -> None:
    """Let it go on; with --accept also where its checkpoint was refused (EB5202)."""
    _change(
        settings,
        app,
        "resume",
        name,
        lambda projector: projector.resume(name, actor=actor(), reason=reason, accept=accept),
    )


@projection.command(cls=Command)
@click.argument("name")
@app_argument
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def rollback(settings: Settings, name: str, app: str | None, reason: str) -> None:
    """Let the version that served before serve again, where it stands; it catches up.

    It is kept for a week after the switch.
    """

    async def back(projector: "Projector") -> int:
        old, new = await projector.rollback(name, actor=actor(), reason=reason)
        note(settings, f"{name}  v{old} -> v{new}")
        return 1

    _change(settings, app, "rollback", name, back)


_scan_flags = all_of(
    [
        click.option("--from", "since", type=Since(), help="Only what was recorded after it."),
        click.option("--stream", "streams", multiple=True, help="Only what it holds; repeat it."),
        click.option("--batch", type=click.IntRange(1), default=5000, help="Events read at once."),
        click.option("--rate", type=Rate(), help="Events per second and process, at most: 5000/s."),
    ]
)


@projection.command(cls=Command)
@click.argument("name")
@app_argument
@_scan_flags
@click.option("--processes", type=click.IntRange(1), default=1, help="That share the scan.")
@click.option("--shards", type=click.IntRange(1), help="Parts of the scan; one for each process.")
@click.option("--verify", "sample", type=click.IntRange(0), default=0, help="Keys; 0 is all.")
@click.option("--no-switch", is_flag=True, help="Build and compare; the old one goes on serving.")
@click.option("--resume", is_flag=True, help="Go on with what stands there, or fail.")
@click.option("--allow-truncated", is_flag=True, help="Though streams lost events.")
@click.option("--allow-parked", is_flag=True, help="Switch though events failed.")
@click.option("--require-equal", is_flag=True, help="Fail if a row differs; for CI.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def rebuild(settings: Settings, /, name: str, app: str | None, **flags: Any) -> None:
    """Make the rows anew from the log beside those that serve, compare, then switch.

    Killed, it goes on where it was when it is started again.
    """
    processes = flags.pop("processes")
    flags["shards"] = flags["shards"] or processes
    switch = not flags.pop("no_switch") and not settings.dry_run
    if switch and not sys.stdin.isatty():
        _with_projector(settings, app, lambda projector: projector.status(name))  # it is there
        confirm(settings, f"projection {name}: rebuild and switch")
    bar = Bar(settings)

    async def run(projector: "Projector") -> Any:
        if settings.dry_run:
            return asdict(await projector.status(name))
        collect_rarely()
        options = _options(flags, switch=switch)
        others = processes - 1
        if others and not projector.definition(name).is_shared:
            note(settings, "  one process replays it: by_stream is not declared")
            others = 0
        async with helpers(settings, name, app, options, others):
            return asdict(
                await projector.rebuild(
                    name,
                    options=options,
                    beat=bar.show,
                    confirm=_asking(settings, bar, name) if switch else None,
                )
            )

    result = _with_projector(settings, app, run)
    if settings.dry_run:
        line = f"would be: {name} v{result['version']} rebuilt from {result['lag_events']:,} behind"
        show_facts(settings, "projection rebuild", _plain(result) | {"dry_run": True}, [line])
        return
    bar.end()
    result["verified"] = result.pop("difference")
    lines = outcome_lines(result)
    show_facts(settings, "projection rebuild", _plain(result) | {"dry_run": False}, lines)


@projection.command("assist", cls=Command)
@click.argument("name")
@app_argument
@_scan_flags
@click.pass_obj
def assist_(settings: Settings, /, name: str, app: str | None, **flags: Any) -> None:
    """Help with the scan of a rebuild that another process leads, here or elsewhere.

    With the same code and the same flags; it ends when all parts are copied.
    """
    options = _options(flags | {"shards": 1}, switch=False)
    collect_rarely()
    rows = _with_projector(settings, app, lambda projector: projector.assist(name, options=options))
    lines = [f"{name}  {rows:,} rows are copied, by all who helped"]
    show_facts(settings, "projection assist", {"name": name, "rows": rows}, lines)


def _options(flags: dict[str, Any], *, switch: bool) -> Any:
    from eventbus.sourcing.rebuild import Options
    from eventbus.storage.events import Position

    since = flags.pop("since")
    return Options(
        parts=flags.pop("shards"),
        page=flags.pop("batch"),
        streams=flags.pop("streams"),
        switch=switch,
        actor=actor(),
        since=since if isinstance(since, datetime) else Position(since or 0),
        **flags,
    )


def _asking(settings: Settings, bar: Bar, name: str) -> "Callable[[Difference], Awaitable[bool]]":
    async def ask(difference: "Difference") -> bool:
        bar.end()
        for example in difference.examples:
            note(settings, f"  {example['kind']}  {example['key']}  {example['columns'] or ''}")
        note(settings, f"  undo: eventbus projection rollback {name} APP")
        if not settings.yes:
            confirm(settings, f"  switch? {difference.differ:,} rows differ")
        return True

    return ask


def _change(
    settings: Settings,
    app: str | None,
    verb: str,
    name: str,
    act: "Callable[[Projector], Awaitable[int]]",
) -> None:
    """Look that it is there, ask, do it, say what became of it."""
    found = _with_projector(settings, app, lambda projector: projector.status(name))
    if not settings.dry_run:
        confirm(settings, f"projection {name}: {verb}")
    count = 1 if settings.dry_run else _with_projector(settings, app, act)
    show_facts(
        settings,
        f"projection {verb}",
        {"verb": verb, "name": found.name, "count": count, "dry_run": settings.dry_run},
        [f"{'would be: ' if settings.dry_run else ''}{verb} of {name}: {count}"],
    )


def _with_projector(
    settings: Settings, app: str | None, ask: "Callable[[Projector], Awaitable[T]]"
) -> T:
    """The projections of the app, in its database, beside workers that may run."""
    return with_bus(
        settings,
        app_of(settings, app),
        lambda bus: ask(bus.projections),
        why="read models and the log stand in the storage",
    )


def _row(standing: "Standing") -> dict[str, Any]:
    return _plain(asdict(standing))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON says it: keys of mappings are text."""
    versions: Mapping[int, str] | None = row.get("versions")
    if versions is None:
        return dict(row)
    return {**row, "versions": {str(number): status for number, status in versions.items()}}


def _lines(one: "Standing") -> list[str]:
    version = "never ran" if one.version is None else f"v{one.version}"
    lines = [
        f"{one.name}  {version}  {one.runs}  lag {one.lag_events:,} events"
        f" ({one.lag_seconds:.1f} s)  parked {one.parked}"
    ]
    lines += [f"  {name}  {position:,}" for name, position in one.positions.items()]
    if one.cause is not None:
        lines.append(f"  cause: {one.cause}")
    if one.rebuild is not None:
        beat = one.rebuild
        lines.append(
            f"  rebuild: {beat.phase}  {beat.done:,} / {beat.total:,}  {beat.rate:,.0f}/s"
            f"  last beat {beat.silent_seconds:.1f} s ago"
        )
    return lines
