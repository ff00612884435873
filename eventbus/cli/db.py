"""`eventbus db`: the schema of the storage."""

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings
from eventbus.cli.main import Commands
from eventbus.cli.output import show_facts, show_rows
from eventbus.cli.storages import operators_storage, with_storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventbus.errors import Finding
    from eventbus.inspection import Inspected
    from eventbus.sqlite import SqliteStorage


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One migration, and whether this database has it."""

    number: int
    name: str
    kind: str
    applied: bool


@click.group(cls=Commands)
def db() -> None:
    """The schema of the storage: numbered steps, never edited."""


@db.command(cls=Command)
@click.option("--sql", is_flag=True, help="Print what is pending; change nothing.")
@click.pass_obj
def upgrade(settings: Settings, sql: bool) -> int:
    """Bring the schema to this version."""
    storage = _sqlite(settings)
    pending = [step for step in steps(storage) if not step.applied]
    if sql:
        click.echo("\n".join(text_of(step.number) for step in pending), nl=False)
        return DONE
    facts: dict[str, Any] = {
        "applied": [step.name for step in pending],
        "dry_run": settings.dry_run,
    }
    if pending and not settings.dry_run:
        confirm(settings, f"schema: {', '.join(step.name for step in pending)} applied")
        asyncio.run(_upgrade(storage))
    word = "would be applied" if settings.dry_run else "applied"
    lines = [f"{step.number:04} {step.name}: {word}" for step in pending]
    show_facts(settings, "db upgrade", facts, lines or ["the schema is up to date"])
    return DONE


@db.command(cls=Command)
@click.pass_obj
def status(settings: Settings) -> None:
    """Which steps this database has, and which are pending."""
    rows = [asdict(step) for step in steps(_sqlite(settings))]
    show_rows(settings, "db status", rows, ("number", "name", "kind", "applied"))


@db.command(cls=Command)
@click.pass_obj
def check(settings: Settings) -> int:
    """Whether the schema fits this version and the tables keep their rules; exit 1 if not."""

    async def ask(storage: "Inspected") -> "Sequence[Finding]":
        return await storage.inspection.verify()

    findings = with_storage(settings, ask)
    facts = {"ok": not findings, "findings": [asdict(finding) for finding in findings]}
    lines = [f"{finding.code}  {finding.what}\n  next  {finding.next}" for finding in findings]
    show_facts(settings, "db check", facts, lines or ["ok"])
    return FOUND if findings else DONE


def steps(storage: "SqliteStorage") -> list[Step]:
    """All steps of this version; a database that does not exist yet has none of them.

    Raises:
        MigrationError: its history is not ours.
        StorageError: it cannot be read.
    """
    from eventbus.sqlite.upgrade import migrations

    missing = {migration.number for migration in _pending(str(storage.path))}
    return [
        Step(number=one.number, name=one.name, kind=one.kind, applied=one.number not in missing)
        for one in migrations()
    ]


def _pending(path: str) -> "Sequence[Any]":
    import sqlite3
    from contextlib import closing
    from pathlib import Path
    from urllib.parse import quote

    from eventbus.sqlite.failures import translated
    from eventbus.sqlite.upgrade import migrations, pending

    if not Path(path).exists():
        return migrations()
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            return pending(connection)
    except sqlite3.Error as error:
        raise translated(error, "reading the schema") from error


def text_of(number: int) -> str:
    """The SQL of a step."""
    from eventbus.sqlite.upgrade import migrations

    return next(migration.text for migration in migrations() if migration.number == number)


def _sqlite(settings: Settings) -> "SqliteStorage":
    from eventbus.sqlite import SqliteStorage

    storage = operators_storage(settings)
    if not isinstance(storage, SqliteStorage):
        raise click.UsageError("this version upgrades SQLite only")
    return storage


async def _upgrade(storage: "SqliteStorage") -> None:
    from eventbus.sqlite import SqliteStorage

    await SqliteStorage(storage.path).upgrade()
