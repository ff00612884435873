"""`eventbus subject`: who is forgotten, and forgetting."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.changing import confirm, one_of
from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings
from eventbus.cli.locate import app_of
from eventbus.cli.main import Commands
from eventbus.cli.output import show_facts, show_rows
from eventbus.cli.storages import actor, with_bus, with_storage

if TYPE_CHECKING:
    from eventbus.inspection import Inspected
    from eventbus.keyring import Rewrapped
    from eventbus.sealing import Subject
    from eventbus.storage.subject_keys import Shredded

_COLUMNS = ("tenant", "subject", "forgotten_at")
_PAGE = 1000


@click.group(cls=Commands)
def subject() -> None:
    """Whom personal data are about: forget them, list who is forgotten, change the master key."""


@subject.command(cls=Command)
@click.argument("names", nargs=-1, metavar="[SUBJECT]...")
@click.option("--tenant", default="", help="Whose subjects they are.")
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A list that was kept outside: `subject list -o jsonl`.",
)
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def forget(
    settings: Settings, names: tuple[str, ...], tenant: str, file: Path | None, reason: str
) -> int:
    """Destroy the keys of these subjects: nobody can read their personal data any more."""
    from eventbus.sealing import Subject

    one_of(names, everything=file is not None, or_else="--from FILE")
    subjects = [Subject(tenant, name) for name in names]
    subjects += listed_in(file) if file is not None else []
    known = {one.subject for one in with_storage(settings, _all)}
    new = [each for each in dict.fromkeys(subjects) if each not in known]
    count = f"{len(new):,} subject{'' if len(new) == 1 else 's'}"
    if new and not settings.dry_run:
        confirm(settings, f"{count}: forgotten for ever, this cannot be undone")
        with_storage(settings, lambda storage: _forget(storage, new, reason))
    facts: dict[str, Any] = {
        "forgotten": [_name(each) for each in new],
        "before": len(set(subjects)) - len(new),
        "dry_run": settings.dry_run,
    }
    line = f"{'would be: ' if settings.dry_run else ''}{count} forgotten"
    hint = [] if settings.dry_run or not new else ["keep the list outside: subject list -o jsonl"]
    show_facts(settings, "subject forget", facts, [line, *hint])
    return DONE


@subject.command(cls=Command)
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def rewrap(settings: Settings, reason: str) -> int:
    """Wrap the keys of everybody with the first master key of the app, beside what runs."""
    bus = app_of(settings)

    def ask(*, dry_run: bool) -> "Rewrapped":
        return with_bus(
            settings,
            bus,
            lambda there: there.events.rewrap(actor=actor(), reason=reason, dry_run=dry_run),
            why="the keys of personal data stand in one",
        )

    done = ask(dry_run=True)
    count = f"{done.changed:,} key{'' if done.changed == 1 else 's'}"
    if done.changed and not settings.dry_run:
        confirm(settings, f"{count}: wrapped by the first master key of the app")
        done = ask(dry_run=False)
    facts: dict[str, Any] = {**asdict(done), "dry_run": settings.dry_run}
    show_facts(settings, "subject rewrap", facts, _rewrapped(done, dry_run=settings.dry_run))
    return FOUND if done.unopened else DONE


def _rewrapped(done: "Rewrapped", *, dry_run: bool) -> list[str]:
    would = "would be: " if dry_run else ""
    lines = [f"{would}{done.changed:,} rewrapped, {done.before:,} were before"]
    if done.unopened:
        lines.append(f"{done.unopened:,} open with none of the master keys: explain EB3116")
    elif not done.changed:
        lines.append("the first master key opens everything: the others are needed no more")
    return lines


@subject.command("list", cls=Command)
@click.pass_obj
def list_(settings: Settings) -> None:
    """Who is forgotten; as JSON lines the list that belongs outside of the database."""
    rows = [
        {**_name(one.subject), "forgotten_at": one.at.isoformat()}
        for one in with_storage(settings, _all)
    ]
    show_rows(settings, "subject list", rows, _COLUMNS)


def listed_in(file: Path) -> "list[Subject]":
    """The subjects of a list that was kept outside.

    Raises:
        click.UsageError: a line is no such row.
    """
    from eventbus.sealing import Subject

    found: list[Subject] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(Subject(str(row["tenant"]), str(row["subject"])))
        except (ValueError, TypeError, KeyError) as error:
            raise click.UsageError(
                f"{file}:{number}: no row of `eventbus subject list -o jsonl`"
            ) from error
    return found


async def brought_back(storage: "Inspected", listed: "list[Subject]") -> "list[Subject]":
    """Who stands in the list, and is not forgotten here: a restored backup brings keys back."""
    forgotten = {one.subject for one in await _all(storage)}
    return [each for each in listed if each not in forgotten]


async def _all(storage: "Inspected") -> "list[Shredded]":
    found: list[Shredded] = []
    while True:
        after = found[-1].subject if found else None
        async with storage.transaction() as tx:
            page = await tx.subject_keys.shredded(after=after, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return found


async def _forget(storage: "Inspected", subjects: "list[Subject]", reason: str) -> None:
    from eventbus.codec import Registry
    from eventbus.sourcing.log import operators_log

    log = operators_log(storage, Registry())
    for each in subjects:
        await log.forget(each.name, tenant=each.tenant, actor=actor(), reason=reason)


def _name(subject: "Subject") -> dict[str, str]:
    return {"tenant": subject.tenant, "subject": subject.name}
