"""`eventbus parked`: what failed and is tried again, with what waits behind it."""

from typing import TYPE_CHECKING

import click

from eventbus.cli.changing import change, one_of
from eventbus.cli.flags import Command, Settings
from eventbus.cli.main import Commands
from eventbus.cli.output import show_rows
from eventbus.cli.rows import found, show_one

if TYPE_CHECKING:
    from eventbus.inspection import Verb

_COLUMNS = ("id", "type", "key", "group", "state", "attempts", "due_in_seconds", "waiting", "error")


@click.group(cls=Commands)
def parked() -> None:
    """What failed and is tried again, with what waits behind its key."""


@parked.command("list", cls=Command)
@click.option("--group", help="Only this group.")
@click.option("--key", help="Only this key.")
@click.option("--limit", default=100, show_default=True, help="At most so many rows.")
@click.pass_obj
def list_(settings: Settings, group: str | None, key: str | None, limit: int) -> None:
    """Messages, oldest first; those in state `queued` wait behind another one of their key."""
    from eventbus.inspection import Selection

    rows = found(settings, Selection(place="parked", group=group, key=key), limit)
    show_rows(settings, "parked list", rows, _COLUMNS)


@parked.command(cls=Command)
@click.argument("id")
@click.pass_obj
def show(settings: Settings, id: str) -> None:
    """One message with its failure, headers and body."""
    show_one(settings, "parked", id)


@parked.command(cls=Command)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--key", help="Everything of this key.")
@click.option("--group", help="Only in this group.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def release(
    settings: Settings, ids: tuple[str, ...], key: str | None, group: str | None, reason: str
) -> int:
    """Try the keys of these messages now; the order within a key stays."""
    from eventbus.inspection import Selection

    one_of(ids, everything=key is not None, or_else="--key KEY")
    what = Selection(place="parked", ids=ids, key=key, group=group)
    return change(settings, "release", what, reason=reason)


@parked.command(cls=Command)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--group", help="Only in this group.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def bury(settings: Settings, ids: tuple[str, ...], group: str | None, reason: str) -> int:
    """Give up: the keys of these messages are dead letters now, without further attempts."""
    from eventbus.inspection import Selection

    return change(settings, "bury", Selection(place="parked", ids=ids, group=group), reason=reason)


@parked.command(cls=Command)
@click.option("--group", required=True, help="Whose work stands still.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def pause(settings: Settings, group: str, reason: str) -> int:
    """Let a group stand still; nothing is lost, its messages wait."""
    return _switch(settings, "pause", group, reason)


@parked.command(cls=Command)
@click.option("--group", required=True, help="Whose work goes on.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def resume(settings: Settings, group: str, reason: str) -> int:
    """Let a group go on."""
    return _switch(settings, "resume", group, reason)


def _switch(settings: Settings, verb: "Verb", group: str, reason: str) -> int:
    from eventbus.inspection import Selection

    return change(settings, verb, Selection(place="parked", group=group), reason=reason)
