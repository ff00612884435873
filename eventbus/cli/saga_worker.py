"""`eventbus saga worker` and `saga check`: run sagas; whether a build can go on with open ones."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, app_argument, worker_flags
from eventbus.cli.locate import app_of
from eventbus.cli.output import show_facts
from eventbus.cli.run import Worker, work

if TYPE_CHECKING:
    from eventbus.saga.family import Family


@click.command(cls=Command)
@app_argument
@click.option("--type", "types", multiple=True, metavar="NAME", help="Only this saga; repeat it.")
@worker_flags
@click.pass_obj
def worker(settings: Settings, /, app: str | None, types: tuple[str, ...], **flags: Any) -> int:
    """Run the sagas of the app and the relay of their commands, until SIGTERM.

    Any number of processes: they divide the work, and one takes over from another.
    """
    roles = tuple(f"saga:{name}" for name in types) or ("saga",)
    return work(settings, app, Worker(**flags, roles=("relay", *roles)))


@click.command(cls=Command)
@click.option(
    "--in-flight",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="What `eventbus saga in-flight -o json` printed.",
)
@click.pass_obj
def check(settings: Settings, file: Path) -> int:
    """Whether this build can go on with the open sagas of a file; exit 1 if one would strand.

    Before a deploy with the new build; run it with the old build as well, for the way back.
    """
    rows = _rows(file)
    families: Mapping[str, Family] = app_of(settings).sagas.families
    stranded = list(stranding(rows, families))
    lines = [f"{one['saga']} v{one['version']}  {one['why']}" for one in stranded]
    show_facts(
        settings,
        "saga check",
        {"ok": not stranded, "checked": len(rows), "stranded": stranded},
        lines or [f"ok: {len(rows)} kinds of open sagas"],
    )
    return FOUND if stranded else DONE


def stranding(
    rows: Iterable[Mapping[str, Any]], families: "Mapping[str, Family]"
) -> Iterable[dict[str, Any]]:
    """Those that no class of the build can go on with, and why."""
    for row in rows:
        why = _why(row, families.get(row["saga"]))
        if why is not None:
            yield {**row, "why": why}


def _why(row: Mapping[str, Any], family: "Family | None") -> str | None:
    if family is None:
        return "the app has no such saga"
    exact = family.definitions.get(row["version"])
    if exact is not None:
        if exact.digest.hex() != row["digest"]:
            return "the class was changed without a new version"
        return None
    newer = [each for each in family.definitions.values() if row["version"] in each.reads_from]
    if not newer:
        return "no class has this version, and no @migrates leads from it"
    step = row["step"]
    for each in newer:
        renamed = {spec.renamed_from for spec in each.steps}
        renamed |= {old for migration in each.migrations for old in migration.steps}
        if step is None or not each.steps or step in each.by_name or step in renamed:
            return None
    return f"step {step!r} is gone without renamed_from= or @migrates(steps=…)"


def _rows(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    try:
        told: Any = json.loads(text)
        found: list[dict[str, Any]] = told if text.lstrip().startswith("[") else told["result"]
        return [
            {name: row[name] for name in ("saga", "version", "digest", "step")} for row in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(
            f"{file} is not what `eventbus saga in-flight -o json` prints: {error!r}"
        ) from error
