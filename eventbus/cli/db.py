"""`eventbus db`: the schema of the storage."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE
from eventbus.cli.flags import Command, Settings
from eventbus.cli.main import Commands
from eventbus.cli.output import show_facts, show_rows
from eventbus.cli.schemas import Schema, Step, schema_of
from eventbus.cli.storages import actor
from eventbus.cli.verify import audit


@click.group(cls=Commands)
def db() -> None:
    """The schema of the storage: numbered steps, never edited."""


@db.command(cls=Command)
@click.option("--sql", is_flag=True, help="Print what is pending; change nothing.")
@click.option(
    "--new-incarnation",
    is_flag=True,
    help="This database was restored or copied: checkpoints are refused until accepted (EB5202).",
)
@click.pass_obj
def upgrade(settings: Settings, sql: bool, new_incarnation: bool) -> int:
    """Bring the schema to this version."""
    schema = schema_of(settings)
    pending = [step for step in asyncio.run(schema.steps()) if not step.applied]
    if sql:
        click.echo(schema.script(pending), nl=False)
        return DONE
    facts: dict[str, Any] = {
        "applied": [step.name for step in pending],
        "dry_run": settings.dry_run,
    }
    lines = _upgrade(settings, schema, pending)
    if new_incarnation:
        lines.append(_begin_incarnation(settings, schema, facts))
    show_facts(settings, "db upgrade", facts, lines or ["the schema is up to date"])
    return DONE


def _upgrade(settings: Settings, schema: Schema, pending: Sequence[Step]) -> list[str]:
    if pending and not settings.dry_run:
        confirm(settings, f"schema: to apply: {', '.join(step.name for step in pending)}")
        asyncio.run(schema.upgrade())
    word = "would be applied" if settings.dry_run else "applied"
    return [f"{step.number:04} {step.name}: {word}" for step in pending]


def _begin_incarnation(settings: Settings, schema: Schema, facts: dict[str, Any]) -> str:
    if settings.dry_run:
        return "a new incarnation would begin"
    confirm(settings, "store: a new incarnation begins, every checkpoint is refused until accepted")
    facts["refused_checkpoints"] = refused = asyncio.run(schema.begin_incarnation(actor()))
    return (
        f"a new incarnation began: {refused} checkpoints are refused until they are accepted"
        " (eventbus projection resume NAME --accept) or rebuilt"
    )


@db.command(cls=Command)
@click.pass_obj
def status(settings: Settings) -> None:
    """Which steps this database has, and which are pending."""
    rows = [asdict(step) for step in asyncio.run(schema_of(settings).steps())]
    show_rows(settings, "db status", rows, ("number", "name", "kind", "applied"))


@db.command(cls=Command)
@click.pass_obj
def check(settings: Settings) -> int:
    """Whether the schema fits this version and the tables keep their rules; exit 1 if not."""
    return audit(settings, "db check", sample=0)
