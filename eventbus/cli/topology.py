"""`eventbus topology`: topics, exchanges and queues as a reviewed difference."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click

from eventbus.cli.brokers import with_transport
from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, app_argument
from eventbus.cli.locate import app_of, called
from eventbus.cli.main import Commands
from eventbus.cli.output import note, show_facts, show_rows
from eventbus.cli.storages import kept
from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from eventbus.transport import Change, HasTopology, Interest, Place, Transport


@click.group(cls=Commands)
def topology() -> None:
    """What the groups of the app need at the broker: compared, shown, made."""


@topology.command(cls=Command)
@app_argument
@click.pass_obj
def plan(settings: Settings, app: str | None) -> None:
    """What `apply` would make; nothing is changed."""
    show_rows(settings, "topology plan", _rows(_planned(settings, app)), ("what", "destructive"))


@topology.command(cls=Command)
@app_argument
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def apply(settings: Settings, app: str | None, reason: str) -> int:
    """Make what is missing; what would destroy something is left to people."""
    changes = _planned(settings, app)
    rows = _rows(changes)
    if not settings.dry_run:
        _refuse_destructive(changes)
    if changes and not settings.dry_run:
        for row in rows:
            note(settings, row["what"])
        confirm(settings, f"topology: {len(rows)} change{'' if len(rows) == 1 else 's'}")

        async def make(transport: "Transport") -> None:
            await cast("HasTopology", transport).apply(changes)

        with_transport(settings, _transport(settings, app), make)
        made = {"changes": [row["what"] for row in rows]}
        kept(settings, "topology apply", made, changed=len(rows), reason=reason, app=app)
    word = "would be done" if settings.dry_run else "done"
    facts: dict[str, Any] = {"changes": rows, "dry_run": settings.dry_run}
    lines = [f"{row['what']}: {word}" for row in rows]
    show_facts(settings, "topology apply", facts, lines or ["nothing is missing"])
    return DONE


@topology.command(cls=Command)
@app_argument
@click.pass_obj
def status(settings: Settings, app: str | None) -> int:
    """What the groups need and how it stands; exit 1 if something is missing or different."""
    interests = _interests(settings, app)

    async def ask(transport: "Transport") -> "Sequence[Place]":
        return await cast("HasTopology", transport).status(interests)

    places = with_transport(settings, _transport(settings, app), ask)
    rows = [asdict(place) for place in places]
    show_rows(settings, "topology status", rows, ("kind", "name", "state", "what"))
    return DONE if all(place.state == "there" for place in places) else FOUND


def _planned(settings: Settings, app: str | None) -> "Sequence[Change]":
    interests = _interests(settings, app)

    async def ask(transport: "Transport") -> "Sequence[Change]":
        return await cast("HasTopology", transport).plan(interests)

    return with_transport(settings, _transport(settings, app), ask)


def _rows(changes: "Sequence[Change]") -> list[dict[str, Any]]:
    """Each once, though several groups need it."""
    found = {change.what: change.destructive for change in changes}
    return [{"what": what, "destructive": destructive} for what, destructive in found.items()]


def _interests(settings: Settings, app: str | None) -> "Sequence[Interest]":
    return asyncio.run(app_of(settings, app).describe()).interests


def _transport(settings: Settings, app: str | None) -> "Transport":
    """Not entered; a copy each time, for what was entered belongs to the loop that it was in."""
    from eventbus.bus.report import scheme_of
    from eventbus.transport import HasTopology

    transport = app_of(settings, app).replace().transport
    if not isinstance(transport, HasTopology):
        raise ConfigurationError(
            "EB8001",
            f"{scheme_of(transport)} has no topology",
            where=called(),
            why="only brokers have topics and queues that somebody must make",
            next="--transport kafka://host:9092 | --transport amqp://host/",
        )
    return transport


def _refuse_destructive(changes: "Sequence[Change]") -> None:
    wrong = [change.what for change in changes if change.destructive]
    if wrong:
        raise ConfigurationError(
            "EB8009",
            f"{len(wrong)} change{'' if len(wrong) == 1 else 's'} of the plan would destroy "
            f"something: {wrong[0]}",
            where=called(),
            why="what stands there would be lost; nothing of the plan was applied",
            next="eventbus topology plan | mend the declaration, or empty and delete it by hand",
        )
