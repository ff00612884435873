"""`eventbus verify`: rules that hold in a live system after every commit; nothing is written."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings
from eventbus.cli.output import show_facts
from eventbus.cli.storages import with_storage

if TYPE_CHECKING:
    from eventbus.errors import Finding
    from eventbus.inspection import Inspected


@click.command(cls=Command)
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="At most so many rows of the outbox; 0 is all.",
)
@click.pass_obj
def verify(settings: Settings, sample: int) -> int:
    """Look for rows that no sequence of commits leaves behind; exit 1 if there are any.

    One snapshot, read-only: workers go on meanwhile. A large database takes longer than the
    default of --timeout.
    """
    return audit(settings, "verify", sample=sample)


def audit(settings: Settings, command: str, *, sample: int) -> int:
    """Ask the storage, and say what it found; the exit code."""

    async def ask(storage: "Inspected") -> "Sequence[Finding]":
        return await storage.inspection.verify(sample=sample)

    findings = with_storage(settings, ask)
    facts = {"ok": not findings, "findings": [asdict(finding) for finding in findings]}
    show_facts(settings, command, facts, [_lines(one) for one in findings] or ["ok"])
    return FOUND if findings else DONE


def _lines(finding: "Finding") -> str:
    return f"{finding.code}  {finding.what}\n  why   {finding.why}\n  next  {finding.next}"
