"""`eventbus dead-letter`: what was given up, and putting it right."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.changing import change, one_of
from eventbus.cli.flags import Command, Rate, Settings
from eventbus.cli.main import Commands
from eventbus.cli.output import note, show_rows, to_json
from eventbus.cli.rows import found, show_one

if TYPE_CHECKING:
    from eventbus.inspection import Selection

_COLUMNS = ("id", "type", "key", "group", "attempts", "waiting", "fingerprint", "error")
_AT_A_BROKER = ("id", "type", "key", "group", "reason", "attempts", "fingerprint", "error")
_FIELDS = ("group", "key", "type", "fingerprint")
_EVERY = 10_000


@click.group("dead-letter", cls=Commands)
def dead_letter() -> None:
    """What was given up; its key waits until an operator decides."""


@dead_letter.command("list", cls=Command)
@click.option("--by", type=click.Choice(["fingerprint", "type", "group"]), help="Count by this.")
@click.option("--group", help="Only this group.")
@click.option("--fingerprint", help="Only failures of this kind.")
@click.option(
    "--from", "place", metavar="SCHEME:NAME", help="kafka:TOPIC or rabbit:QUEUE, not the storage."
)
@click.option("--limit", default=100, show_default=True, help="At most so many rows.")
@click.pass_obj
def list_(
    settings: Settings,
    by: str | None,
    group: str | None,
    fingerprint: str | None,
    place: str | None,
    limit: int,
) -> None:
    """Dead letters, oldest first, or counted by kind."""
    from eventbus.inspection import Selection

    if place is not None:
        from eventbus.cli.letters import letters_at

        rows: Sequence[Mapping[str, Any]] = [
            row
            for row in letters_at(settings, place, _EVERY)
            if group in (None, row["group"]) and fingerprint in (None, row["fingerprint"])
        ]
    else:
        what = Selection(place="dead-letter", group=group, fingerprint=fingerprint)
        rows = found(settings, what, limit if by is None else _EVERY)
    if by is None and place is not None:
        show_rows(settings, "dead-letter list --from", rows[:limit], _AT_A_BROKER)
        return
    if by is None:
        show_rows(settings, "dead-letter list", rows, _COLUMNS)
        return
    counted = _counted(rows, by)[:limit]
    show_rows(settings, "dead-letter list --by", counted, (by, "count", "type", "error"))


def _counted(rows: Sequence[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    counts = Counter(row[by] for row in rows)
    example = {row[by]: row for row in rows}
    return [
        {by: value, "count": count} | {name: example[value][name] for name in ("type", "error")}
        for value, count in counts.most_common()
    ]


@dead_letter.command(cls=Command)
@click.argument("id")
@click.pass_obj
def show(settings: Settings, id: str) -> None:
    """One dead letter with its failure, headers and body."""
    show_one(settings, "dead-letter", id)


def _selecting(function: Callable[..., int]) -> Callable[..., int]:
    for decorate in (
        click.option("--reason", default="", help="Why, for the audit."),
        click.option("--limit", type=int, help="At most so many messages."),
        click.option(
            "--filter",
            "filters",
            multiple=True,
            metavar="FIELD=VALUE",
            help=f"Fields: {', '.join(_FIELDS)}; repeat it.",
        ),
        click.option("--fingerprint", help="Failures of this kind."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        function = decorate(function)
    return function


@dead_letter.command(cls=Command)
@_selecting
@click.option("--rate", type=Rate(), metavar="N/s", help="Release so many keys per second.")
@click.option(
    "--from", "place", metavar="SCHEME:NAME", help="kafka:TOPIC or rabbit:QUEUE, not the storage."
)
@click.pass_obj
def redrive(
    settings: Settings,
    /,
    rate: float | None,
    place: str | None,
    limit: int | None,
    reason: str,
    **selection: Any,
) -> int:
    """Try again, key by key, what waits behind each in order; --from sends it to its topic."""
    what = _selected(**selection)
    if place is not None:
        from eventbus.cli.redriving import redrive_from

        return redrive_from(settings, place, what, reason=reason, rate=rate, limit=limit)
    return change(settings, "redrive", what, reason=reason, rate=rate, limit=limit)


@dead_letter.command(cls=Command)
@_selecting
@click.pass_obj
def discard(settings: Settings, /, limit: int | None, reason: str, **selection: Any) -> int:
    """Drop messages, so that the next one of their key is due; `restore` brings them back."""
    return change(settings, "discard", _selected(**selection), reason=reason, limit=limit)


@dead_letter.command(cls=Command)
@_selecting
@click.pass_obj
def restore(settings: Settings, /, limit: int | None, reason: str, **selection: Any) -> int:
    """Bring discarded messages back to their place; within 30 days."""
    return change(settings, "restore", _selected(**selection), reason=reason, limit=limit)


def _selected(
    ids: tuple[str, ...], fingerprint: str | None, filters: tuple[str, ...]
) -> "Selection":
    from eventbus.inspection import Selection

    picked: dict[str, str] = {} if fingerprint is None else {"fingerprint": fingerprint}
    for wish in filters:
        field, equals, value = wish.partition("=")
        if not equals or field not in _FIELDS:
            raise click.UsageError(f"--filter {wish}: write {'|'.join(_FIELDS)}=VALUE")
        picked[field] = value
    one_of(ids, everything=bool(picked), or_else="--fingerprint F, or --filter FIELD=VALUE")
    return Selection(place="dead-letter", ids=ids, **picked)


@dead_letter.command(cls=Command)
@click.argument("id")
@click.option("--data", metavar="JSON|@FILE", help="The new body; else $EDITOR opens the old one.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def edit(settings: Settings, id: str, data: str | None, reason: str) -> int:
    """Replace the body of one dead letter, if the codec of the app can read the new one."""
    from eventbus.cli.editing import edited

    return edited(settings, id, data, reason)


@dead_letter.command(cls=Command)
@click.option("--group", help="Only this group.")
@click.option("--file", type=click.Path(dir_okay=False, writable=True), help="Instead of stdout.")
@click.pass_obj
def export(settings: Settings, group: str | None, file: str | None) -> None:
    """All dead letters as JSON lines, whole."""
    from eventbus.inspection import Selection

    rows = found(settings, Selection(place="dead-letter", group=group), _EVERY)
    lines = "".join(f"{to_json(row)}\n" for row in rows)
    if file is None:
        click.echo(lines, nl=False)
        return
    Path(file).write_text(lines, encoding="utf-8")
    note(settings, f"{len(rows)} messages in {file}")
