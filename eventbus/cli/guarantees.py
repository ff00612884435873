"""`eventbus guarantees`: what each group is promised under this configuration."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, app_argument, option
from eventbus.cli.output import show_facts

if TYPE_CHECKING:
    from eventbus.errors import Finding


@click.command(cls=Command)
@app_argument
@option("--strict", is_flag=True, help="A warning fails too, as with EventBus(strict=True).")
@click.pass_obj
def guarantees(settings: Settings, app: str | None, strict: bool) -> int:
    """What each group is promised under this configuration; exit 1 if something is unsafe."""
    from eventbus.cli.locate import app_of

    findings = asyncio.run(app_of(settings, app).describe()).findings
    failing = {"refuse", "warn"} if strict else {"refuse"}
    safe = not any(finding.level in failing for finding in findings)
    facts = {"safe": safe, "strict": strict, "findings": [asdict(finding) for finding in findings]}
    show_facts(settings, "guarantees", facts, _findings(findings))
    return DONE if safe else FOUND


def _findings(findings: "Sequence[Finding]") -> Iterator[str]:
    for finding in findings:
        yield f"{finding.level:<6}  {finding.code}  {finding.what}"
        yield f"        why   {finding.why}"
        if finding.level != "say":
            yield f"        next  {finding.next}"
