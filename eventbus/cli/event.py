"""`eventbus event`: the log, looked into, followed, exported; publish and replay."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.flags import Command, Settings, all_of
from eventbus.cli.main import Commands
from eventbus.cli.meant import close_to, none_of, tombstoned, type_of
from eventbus.cli.output import cell, note, show_facts, to_json
from eventbus.cli.recorded import line_of, row_of, show_events, with_log
from eventbus.cli.stream_life import archive, tombstone, truncate
from eventbus.cli.streams import head, head_of, note_

if TYPE_CHECKING:
    from eventbus.sourcing import EventLog, Recorded
    from eventbus.storage.events import Filter, Position

Row = dict[str, Any]


class Moment(click.ParamType[datetime]):
    """`2026-11-26`, `2026-11-26T14:00`, with or without an offset; without one it is UTC."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """An aware time."""
        if isinstance(value, datetime):
            return value
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; write 2026-11-26T14:00", param, ctx)
        return told if told.tzinfo is not None else told.replace(tzinfo=UTC)


class Place(Moment):
    """A position of the log, or a time."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int, or an aware time."""
        if isinstance(value, int):
            return value
        if value.isdecimal():
            return int(value)
        return super().convert(value, param, ctx)


@click.group("event", cls=Commands)
def event() -> None:
    """What the streams hold: look, follow, export; publish and replay."""


for _command in (head, note_, truncate, archive, tombstone):
    event.add_command(_command)

_selecting = all_of(
    [
        click.option("--type", "types", multiple=True, help="Only this type; repeat it."),
        click.option("--category", help="Only streams CATEGORY-…"),
        click.option("--tenant", help="Only this tenant."),
        click.option("--stream", help="Only this stream."),
        click.option("--key", help="Only this key."),
        click.option("--correlation", help="Only this flow."),
        click.option("--since", type=Moment(), help="Recorded then or later."),
        click.option("--until", type=Moment(), help="Recorded then or earlier."),
        click.option("--where", help="A condition: 'data.cents > 100'."),
        click.option("--from", "first", type=click.IntRange(0), help="From this position on."),
    ]
)


@event.command(cls=Command)
@click.argument("type", required=False)
@click.option("--key", help="Only this key.")
@click.option("--correlation", help="Only this flow.")
@click.option("--where", help="A condition: 'data.cents > 100'.")
@click.option("--from", "first", type=click.IntRange(0), help="From this position on; else now.")
@click.option("--limit", type=click.IntRange(1), help="End after so many.")
@click.pass_obj
def tail(
    settings: Settings, /, type: str | None, first: int | None, limit: int | None, **selection: Any
) -> None:
    """Events as they are recorded, a line each, until Ctrl-C."""
    fits = _fitting(**selection)
    only = _filter(types=() if type is None else (type,))

    async def follow(log: "EventLog") -> None:
        shown = 0
        after = None if first is None else _before(first)
        async with aclosing(log.subscribe(after=after, only=only)) as events:
            async for one in events:
                row = row_of(one)
                if fits(row):
                    click.echo(line_of(row) if settings.output == "table" else to_json(row))
                    shown += 1
                if shown == limit:
                    return

    with_log(settings, follow)


@event.command(cls=Command)
@click.argument("correlation_id")
@click.option("--format", "form", type=click.Choice(["tree", "dot"]), default="tree")
@click.pass_obj
def trace(settings: Settings, correlation_id: str, form: str) -> None:
    """What belongs to one flow, each under what caused it."""
    from eventbus.cli.flow import dot, tree

    async def ask(log: "EventLog") -> list[Row]:
        return [row_of(one) for one in await log.trace(correlation_id)]

    rows = with_log(settings, ask)
    if not rows:
        raise none_of(f"no event of the flow {correlation_id}", "eventbus event search")
    lines = tree(rows) if form == "tree" else dot(rows)
    if settings.output != "table":
        show_events(settings, "event trace", rows)
        return
    for line in lines:
        click.echo(line)


@event.command(cls=Command)
@click.argument("stream")
@click.option("--from", "first", type=click.IntRange(1), default=1, help="From this version on.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--tenant", default="", help="Whose stream it is.")
@click.pass_obj
def read(settings: Settings, stream: str, first: int, limit: int, tenant: str) -> None:
    """The events of one stream, in the order of their versions."""

    async def ask(log: "EventLog") -> list[Row]:
        found = await log.read(stream, after=first - 1, limit=limit, tenant=tenant)
        if not found and (await head_of(log, stream, tenant)).state == "tombstoned":
            raise tombstoned(stream)
        return [row_of(one) for one in found]

    show_events(settings, "event read", with_log(settings, ask))


@event.command(cls=Command)
@click.argument("id")
@click.pass_obj
def show(settings: Settings, id: str) -> None:
    """One event with its place, headers and data."""

    async def ask(log: "EventLog") -> "Recorded | None":
        return await log.show(id)

    one = with_log(settings, ask)
    if one is None:
        raise none_of(
            f"no event {id}", "eventbus event search --key K | --where 'data.cents > 100'"
        )
    row = row_of(one)
    show_facts(settings, "event show", row, _lines(row))


@event.command(cls=Command)
@_selecting
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.pass_obj
def search(settings: Settings, /, limit: int, **selection: Any) -> None:
    """Events that fit, in the order of the log."""

    async def ask(log: "EventLog") -> tuple[list[Row], list[str]]:
        rows = await _some(log, limit, **selection)
        return rows, [] if rows else await close_to(log, selection["types"], type_of)

    rows, close = with_log(settings, ask)
    show_events(settings, "event search", rows)
    if close:
        note(settings, f"nothing found; there is: {', '.join(close)}")


@event.command(cls=Command)
@click.argument("file", type=click.Path(dir_okay=False, writable=True, allow_dash=True))
@_selecting
@click.pass_obj
def export(settings: Settings, /, file: str, **selection: Any) -> None:
    """Events as JSON lines, whole, in the order of the log; `-` is stdout."""

    async def write(log: "EventLog") -> int:
        count = 0
        async with aclosing(_found(log, **selection)) as rows:
            row = await anext(rows, None)
            if row is None and (close := await close_to(log, selection["types"], type_of)):
                instead = " | ".join(f"--type {name}" for name in close)
                raise none_of(f"no event of {', '.join(selection['types'])}", instead)
            with _written(file) as line:  # not before: what was there may be all that is left
                while row is not None:
                    line(f"{to_json(row)}\n")
                    count += 1
                    row = await anext(rows, None)
        return count

    count = with_log(settings, write)
    if file != "-":
        note(settings, f"{count:,} events in {file}")


@contextmanager
def _written(file: str) -> Iterator[Callable[[str], object]]:
    if file == "-":
        yield lambda line: click.echo(line, nl=False)
        return
    with Path(file).open("w", encoding="utf-8") as out:
        yield out.write


@event.command(cls=Command)
@click.argument("type")
@click.option("--data", required=True, metavar="JSON|@FILE", help="The body.")
@click.option("--key", help="Of a type the app has no class for.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Repeat it.")
@click.option("--untyped", is_flag=True, help="Although the app has no class for it.")
@click.pass_obj
def publish(settings: Settings, /, type: str, **options: Any) -> int:
    """Publish one event by the app, checked by its class."""
    from eventbus.cli.publishing import published

    return published(settings, type, **options)


@event.command(cls=Command)
@click.option("--group", required=True, help="The group that gets them.")
@click.option("--from", "first", type=Place(), default=0, help="The first position, or time.")
@click.option("--to", "last", type=Place(), help="The last one; else as far as it goes.")
@click.pass_obj
def replay(
    settings: Settings, group: str, first: int | datetime, last: int | datetime | None
) -> int:
    """Feed one group from the log; what it writes is written, what it publishes stays here."""
    from eventbus.cli.publishing import Part, replayed
    from eventbus.storage.events import Position

    part = Part(
        after=_before(first) if isinstance(first, int) else _before(0),
        upto=Position(last) if isinstance(last, int) else None,
        between=(_moment(first), _moment(last)),
    )
    return replayed(settings, group, part)


async def _some(log: "EventLog", limit: int, **selection: Any) -> list[Row]:
    rows: list[Row] = []
    async with aclosing(_found(log, **selection)) as found:
        async for row in found:
            rows.append(row)
            if len(rows) == limit:
                break
    return rows


async def _found(
    log: "EventLog",
    types: tuple[str, ...],
    category: str | None,
    tenant: str | None,
    first: int | None,
    **selection: Any,
) -> AsyncGenerator[Row, None]:
    fits = _fitting(**selection)
    only = _filter(types=types, category=category, tenant=tenant)
    async with aclosing(log.search(only=only, after=_before(first or 0))) as events:
        async for one in events:
            row = row_of(one)
            if fits(row):
                yield row


def _fitting(
    *,
    where: str | None = None,
    stream: str | None = None,
    key: str | None = None,
    correlation: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Callable[[Row], bool]:
    """What the database cannot be asked."""
    from eventbus.cli.condition import condition

    holds = (lambda _: True) if where is None else condition(where)
    wanted = {"stream": stream, "correlation_id": correlation}
    equal = {name: value for name, value in wanted.items() if value is not None}
    keys = None if key is None else lambda row: {key, f"{row['tenant']}/{key}"}

    def fits(row: Row) -> bool:
        at = datetime.fromisoformat(row["recorded_at"])
        return (
            all(row[name] == value for name, value in equal.items())
            and (keys is None or row["key"] in keys(row))
            and (since is None or at >= since)
            and (until is None or at <= until)
            and holds(row)
        )

    return fits


def _filter(**wanted: Any) -> "Filter":
    from eventbus.storage.events import Filter

    return Filter(**wanted)


def _moment(place: int | datetime | None) -> datetime | None:
    return place if isinstance(place, datetime) else None


def _before(position: int) -> "Position":
    """`--from` names the first event; reading begins behind a position."""
    from eventbus.storage.events import Position

    return Position(max(position - 1, 0))


def _lines(row: Mapping[str, Any]) -> list[str]:
    facts = [name for name in row if name not in {"data", "headers"} and row[name] is not None]
    return [
        *(f"{name.replace('_', ' '):<15}{cell(row[name])}" for name in facts),
        *(f"{'header':<15}{cell(name)}: {cell(value)}" for name, value in row["headers"].items()),
        f"{'data':<15}{cell(to_json(row['data']))}",
    ]
