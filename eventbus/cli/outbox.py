"""`eventbus outbox`: what waits for the broker."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.changing import change, one_of
from eventbus.cli.flags import Command, Duration, Settings, app_argument, option, worker_flags
from eventbus.cli.main import Commands
from eventbus.cli.output import show_facts, show_rows
from eventbus.cli.storages import with_storage

if TYPE_CHECKING:
    from eventbus.inspection import Inspected

STATES = ["pending", "deferred", "scheduled", "failed"]
_NO_STATE_BEFORE = 10_000  # rows that are looked at for those of one state


@click.group(cls=Commands)
def outbox() -> None:
    """What was published and waits for the broker."""


@outbox.command(cls=Command)
@app_argument
@worker_flags
@option(
    "--batch",
    type=click.IntRange(1),
    help="Rows per call; 500, and 2,000 while so many wait, unless given.",
)
@option("--poll", type=Duration(), help="Longest wait for new rows.")
@click.pass_obj
def relay(settings: Settings, /, app: str | None, **flags: Any) -> int:
    """Run the relay alone, until SIGTERM."""
    from eventbus.cli.run import Worker, work

    return work(settings, app, Worker(**flags, roles=("relay",)))


@outbox.command(cls=Command)
@click.pass_obj
def status(settings: Settings) -> None:
    """How much waits, how old it is, how much failed."""

    async def ask(storage: "Inspected") -> Mapping[str, float]:
        return await storage.inspection.figures()

    figures = with_storage(settings, ask)
    facts = {
        name.removeprefix("outbox_"): value
        for name, value in figures.items()
        if name.startswith("outbox_")
    }
    lines = [f"{name.replace('_', ' '):<22}{value:,.6g}" for name, value in facts.items()]
    show_facts(settings, "outbox status", facts, lines)


@outbox.command("list", cls=Command)
@click.option("--state", type=click.Choice(STATES), help="Only rows in this state.")
@click.option("--type", "type_", help="Only this type.")
@click.option("--key", help="Only this key.")
@click.option("--limit", default=100, show_default=True, help="At most so many rows.")
@click.pass_obj
def list_(
    settings: Settings, state: str | None, type_: str | None, key: str | None, limit: int
) -> None:
    """Rows, oldest first."""
    from eventbus.inspection import Selection

    async def ask(storage: "Inspected") -> Sequence[Mapping[str, Any]]:
        what = Selection(place="outbox", type=type_, key=key)
        among = limit if state is None else _NO_STATE_BEFORE
        return await storage.inspection.find(what, limit=among)

    rows = [row for row in with_storage(settings, ask) if state in {None, row["state"]}][:limit]
    columns = ("id", "type", "key", "state", "age_seconds", "attempts", "error")
    show_rows(settings, "outbox list", rows, columns)


@outbox.command(cls=Command)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Whatever failed or is deferred.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def retry(settings: Settings, ids: tuple[str, ...], everything: bool, reason: str) -> int:
    """Send failed or deferred rows again at once."""
    from eventbus.inspection import Selection

    one_of(ids, everything=everything, or_else="--all")
    return change(settings, "retry", Selection(place="outbox", ids=ids), reason=reason)


@outbox.command(cls=Command)
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def pause(settings: Settings, reason: str) -> int:
    """Let all relays stand still; what is published stays in the outbox."""
    from eventbus.inspection import Selection

    return change(settings, "pause", Selection(place="outbox"), reason=reason)


@outbox.command(cls=Command)
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def resume(settings: Settings, reason: str) -> int:
    """Let the relays go on."""
    from eventbus.inspection import Selection

    return change(settings, "resume", Selection(place="outbox"), reason=reason)
