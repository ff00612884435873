"""`eventbus saga worker` and `saga check`: run sagas; whether a build can go on with open ones."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, app_argument, worker_flags
from eventbus.cli.locate import app_of
from eventbus.cli.output import show_facts
from eventbus.cli.process import ending_early
from eventbus.cli.run import Worker, work
from eventbus.cli.saga_class import no_saga

if TYPE_CHECKING:
    from eventbus.saga.stranding import Standing


@click.command(cls=Command)
@app_argument
@click.option("--type", "types", multiple=True, metavar="NAME", help="Only this saga; repeat it.")
@worker_flags
@click.pass_obj
def worker(settings: Settings, /, app: str | None, types: tuple[str, ...], **flags: Any) -> int:
    """Run the sagas of the app and the relay of their commands, until SIGTERM.

    Any number of processes: they divide the work, and one takes over from another.
    """
    with ending_early():
        known = app_of(settings, app).sagas.families
    for name in types:
        if name not in known:
            raise no_saga(name, known)
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
    from eventbus.saga.stranding import stranded

    found = standing(file)
    families = app_of(settings).sagas.families
    told = [
        {**row, "why": why}
        for row, one in found
        if (why := stranded(one, families.get(one.saga))) is not None
    ]
    lines = [f"{one['saga']} v{one['version']}  {one['why']}" for one in told]
    show_facts(
        settings,
        "saga check",
        {"ok": not told, "checked": len(found), "stranded": told},
        lines or [f"ok: {len(found)} kinds of open sagas"],
    )
    return FOUND if told else DONE


def standing(file: Path) -> "list[tuple[dict[str, Any], Standing]]":
    """The rows of a file that `eventbus saga in-flight -o json` printed.

    Raises:
        UsageError: it is not such a file.
    """
    from eventbus.saga.stranding import Standing

    found: list[tuple[dict[str, Any], Standing]] = []
    text = file.read_text(encoding="utf-8")
    try:
        told: Any = json.loads(text)
        rows: list[dict[str, Any]] = told if text.lstrip().startswith("[") else told["result"]
        for row in rows:
            graph = row.get("graph")
            one = Standing(
                saga=row["saga"],
                version=row["version"],
                digest=bytes.fromhex(row["digest"]),
                graph=None if graph is None else _packed(graph),
                state=row.get("state"),
                step=row["step"],
            )
            shown = {name: row[name] for name in ("saga", "version", "digest", "step")}
            found.append(({**shown, "state": one.state}, one))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise click.UsageError(
            f"{file} is not what `eventbus saga in-flight -o json` prints: {error!r}"
        ) from error
    return found


def _packed(graph: object) -> bytes:
    import orjson

    return orjson.dumps(graph, option=orjson.OPT_SORT_KEYS)
