"""`eventbus saga lint|explore|diagram`: what can be said of a saga class."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Decorator, Settings, option
from eventbus.cli.output import show_facts

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.errors import ConfigurationError
    from eventbus.saga.definition import Definition
    from eventbus.storage import Transaction
    from eventbus.storage.sagas import SagaRecord
    from eventbus.testing.explorer import Report


@click.command(cls=Command)
@option(
    "--in-flight",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `eventbus saga in-flight -o json` printed: versions that this build must respect.",
)
@click.pass_obj
def lint(settings: Settings, file: Path | None) -> int:
    """Warnings about the sagas of the app; with errors the app does not start (EB1232).

    What changed since open sagas began (SAGA010, SAGA017) needs --in-flight.
    """
    from eventbus.bus.sagas import handled_by
    from eventbus.cli.locate import app_of
    from eventbus.cli.saga_worker import standing
    from eventbus.saga.lint import lint as lint_one

    told = asyncio.run(app_of(settings).describe())
    handled = handled_by(told.groups)
    known = [] if file is None else [one.known for _, one in standing(file)]
    versions = {(row.saga, row.version, row.digest): row for row in known if row is not None}
    rows = [
        {"saga": definition.saga, "version": definition.version, **asdict(finding)}
        for definition in told.sagas
        for finding in lint_one(definition, known=list(versions.values()), handled=handled)
    ]
    facts = {"sagas": len(told.sagas), "findings": rows}
    show_facts(settings, "saga lint", facts, _findings(rows, len(told.sagas)))
    return FOUND if rows else DONE


def _findings(rows: "Sequence[dict[str, Any]]", sagas: int) -> Iterator[str]:
    for row in rows:
        yield f"{row['level']:<6}  {row['code']}  {row['saga']}: {row['what']}"
        yield f"        why   {row['why']}"
        yield f"        next  {row['next']}"
    yield f"{sagas} saga{'s' * (sagas != 1)}, {len(rows)} finding{'s' * (len(rows) != 1)}"


def _budget(name: str, default: int, help: str) -> Decorator:
    return option(name, type=click.IntRange(0), default=default, show_default=True, help=help)


@click.command(cls=Command)
@click.argument("name", metavar="TYPE")
@_budget("--duplicates", 1, "Messages that may be delivered twice.")
@_budget("--timeouts", 1, "Timers that may fire before the answer comes.")
@_budget("--rejections", 1, "Commands that may be refused.")
@_budget("--cancels", 1, "Cancelling events, at any moment.")
@_budget("--losses", 0, "Messages that may be lost for ever.")
@option(
    "--max-states",
    type=click.IntRange(1),
    default=300_000,
    show_default=True,
    help="Where to give up.",
)
@click.pass_obj
def explore(
    settings: Settings,
    name: str,
    duplicates: int,
    timeouts: int,
    rejections: int,
    cancels: int,
    losses: int,
    max_states: int,
) -> int:
    """Every order, duplicate and refusal of a saga; exit 1 with the shortest counterexample."""
    from eventbus.cli.locate import app_of
    from eventbus.testing.explorer import explore as explore_one
    from eventbus.testing.saga_examples import Examples

    definition = _wanted(app_of(settings), name)
    starts = sorted(definition.starts, key=lambda cls: cls.__name__)
    report = explore_one(
        definition,
        start=Examples().of(starts[0]),
        duplicates=duplicates,
        timeouts=timeouts,
        rejections=rejections,
        cancels=cancels,
        losses=losses,
        max_states=max_states,
    )
    violation = report.violation
    facts = {
        "saga": report.saga,
        "version": definition.version,
        "states": report.states,
        "transitions": report.transitions,
        "complete": report.complete,
        "statuses": sorted(report.statuses),
        "violation": None if violation is None else asdict(violation),
    }
    show_facts(settings, "saga explore", facts, _explored(report))
    return DONE if violation is None and report.complete else FOUND


def _explored(report: "Report") -> Iterator[str]:
    seen = f"{report.states:,} states, {report.transitions:,} moves"
    if report.violation is None:
        what = "nothing was found" if report.complete else "cut off before all was seen"
        yield f"{report.saga}: {what} in {seen}"
        return
    yield f"{report.saga}: it does not hold that {report.violation.invariant}"
    for number, move in enumerate(report.violation.moves, 1):
        yield f"  {number} {move}"
    yield f"\n{report.violation.case}"


@click.command(cls=Command)
@click.argument("name", metavar="TYPE")
@option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "dot", "svg"]),
    default="mermaid",
    show_default=True,
    help="Text that draws it; SVG is the picture itself.",
)
@option("--id", "id", metavar="ID", help="Overlay this saga: its id, or its business key.")
@click.pass_obj
def diagram(settings: Settings, name: str, form: Any, id: str | None) -> None:
    """A saga class as a drawing, or one saga laid over it."""
    from eventbus.cli.locate import app_of
    from eventbus.saga.diagram import diagram as draw
    from eventbus.saga.instance import Instance

    bus = app_of(settings)
    definition = _wanted(bus, name)
    if id is None:
        text = draw(definition, form)
    else:
        record = asyncio.run(_record(bus, definition, id))
        text = draw(definition, form, saga=Instance.of(record), steps=record.steps)
    facts = {"saga": definition.saga, "version": definition.version, "format": form, "text": text}
    show_facts(settings, "saga diagram", facts, [text.rstrip("\n")])


async def _record(bus: "EventBus", definition: "Definition", id: str) -> "SagaRecord":
    async with bus.client(), bus.transaction() as unit:
        return await _found(unit.storage, definition, id)


async def _found(tx: "Transaction", definition: "Definition", id: str) -> "SagaRecord":
    from eventbus.storage.sagas import Correlation

    key = Correlation(definition.saga, "", id)
    saga_id = (await tx.sagas.find([key])).get(key) or _uuid(id)
    for record in await tx.sagas.lock([saga_id] if saga_id is not None else []):
        if record.saga == definition.saga:
            return record
    raise _unknown(
        f"there is no saga {definition.saga!r} with the id or key {id!r}",
        "it was never started, or swept after its end",
        "look at the business key: it is the key of the event that starts it",
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _wanted(bus: "EventBus", name: str) -> "Definition":
    """The newest version of that saga."""
    told = sorted(asyncio.run(bus.describe()).sagas, key=lambda each: each.version)
    known = {definition.saga: definition for definition in told}
    if name in known:
        return known[name]
    raise no_saga(name, known)


def no_saga(name: str, known: Iterable[str]) -> "ConfigurationError":
    """EB1233: the app has no such class; and what was meant, or what there is."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3)
    why = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(names) or 'none'}"
    return _unknown(f"the app has no saga {name!r}", why, "name a saga by the name= of its class")


def _unknown(what: str, why: str, next: str) -> "ConfigurationError":
    from eventbus.cli.locate import called
    from eventbus.errors import ConfigurationError

    return ConfigurationError("EB1233", what, where=called(), why=why, next=next)
