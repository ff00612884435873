"""`eventbus crashtest`: the application's own handlers and sagas, killed at every crash point."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.crashtest_on_services import (
    explored_on_services,
    fails_by_itself,
    refuse_others,
)
from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, option
from eventbus.cli.output import note, show_facts, table
from eventbus.errors import ConfigurationError, EventBusError

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.cli.scenario_file import ScenarioFile
    from eventbus.testing.crashtest import Report, Trial

_MOST_SHOWN = 12  # calls or rows
_COLUMNS = ("call", "points", "runs", "broken", "not_reached")


@click.command(cls=Command)
@click.argument("what", metavar="FILE:SCENARIO")
@option(
    "--points",
    default="*",
    show_default=True,
    help="Which: consumer.*,relay.confirmed,relay.publish/1/after; A>B: a second one.",
)
@option(
    "--depth",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="Crashes in a row; 2: one more during recovery.",
)
@option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the broker.")
@click.option("--real", is_flag=True, help="Processes, SIGKILL, PostgreSQL and a broker for tests.")
@click.pass_obj
def crashtest(
    settings: Settings, what: str, points: str, depth: int, seed: int, *, real: bool
) -> int:
    """Run a scenario on copies of the app in memory, and kill it at every crash point.

    FILE holds `async def SCENARIO(bus)`, its `@invariant`s, and `prepare(bus)` for tables. Exit 1
    with the shortest way to break one of them. With --real each run is a process, on a database
    and at a broker of its own: --storage and --transport say where those are made, else they are
    found as tests find them.
    """
    from eventbus.cli.locate import app_of, target_of
    from eventbus.cli.scenario_file import scenario_in

    refuse_others(settings) if real else _refuse_services(settings)
    app = app_of(settings)
    found = scenario_in(what)
    if app.storage is None:
        note(settings, "the app has no storage: what is tested has sqlite://, and its promises")
    if not settings.verbose:
        logging.getLogger("eventbus").setLevel(logging.CRITICAL)  # the dead complain
    patterns = [each.strip() for each in points.split(",") if each.strip()]
    if real:
        report = explored_on_services(settings, app, what, patterns, depth)
    else:
        report = asyncio.run(_explored(app, found, patterns, depth, seed))
    if not report.hit and report.failure is None:
        raise _nothing_hit(what, points)
    again = ["eventbus", "crashtest", what, "--app", str(target_of(settings))]
    again += ["--real"] if real else []
    at = settings.transport  # one with a user may have a password: it is typed again
    again += ["--transport", at] if at and "@" not in at else []
    again += ["--seed", str(seed)] if seed else []
    facts = _facts(report, what, seed, again)
    for each in report.failing:
        note(settings, f"fails without a crash too: {each}")
    show_facts(settings, "crashtest", facts, _lines(facts))
    return DONE if report.failure is None else FOUND


def _refuse_services(settings: Settings) -> None:
    """Nothing is run on a service that somebody else may use."""
    transport, storage = settings.transport, settings.storage
    if transport and not transport.startswith("memory:"):
        raise click.UsageError(
            "without --real crash tests run on memory://: say --transport memory://"
        )
    if storage and storage != "sqlite://":
        raise click.UsageError(
            "without --real crash tests run on sqlite://: say --storage sqlite://"
        )


async def _explored(
    app: "EventBus", found: "ScenarioFile", points: list[str], depth: int, seed: int
) -> "Report":
    from eventbus.testing.crashtest import crashtest as explore

    try:
        return await explore(
            app,
            found.scenario,
            prepare=found.prepare,
            invariants=found.invariants,
            points=points,
            depth=depth,
            seed=seed,
        )
    except EventBusError:
        raise
    except Exception as error:  # whatever the user's scenario does
        from eventbus.cli.locate import place_of

        said = f"the scenario fails without a crash: {type(error).__name__}: {error}"
        raise fails_by_itself(said, f"{place_of(error)}, ", found.name) from error


def _nothing_hit(what: str, points: str) -> ConfigurationError:
    from eventbus.cli.locate import called

    return ConfigurationError(
        "EB8013",
        "no crash point was hit: nothing was tested",
        where=f"{called()} {what} --points {quote(points)}",
        why="the scenario passes no point of that name, or makes no call at all",
        next=f"eventbus crashtest {what} -o json  names those that it passes",
    )


def _facts(report: "Report", what: str, seed: int, again: list[str]) -> Mapping[str, Any]:
    crashed = [trial for trial in report.trials if trial.kills]
    return {
        "scenario": what,
        "seed": seed,
        "ok": report.failure is None,
        "runs": len(crashed),
        "hit": report.hit,
        "broken": sum(bool(trial.violations) for trial in report.trials),
        "failing": list(report.failing),
        "points": [
            {
                "kills": [str(kill) for kill in trial.kills],
                "names": list(trial.kills[-1].names),
                "result": trial.outcome,
                "violations": [each.invariant for each in trial.violations],
            }
            for trial in crashed
        ],
        "failure": None if report.failure is None else _failure(report.failure, again),
    }


def _failure(trial: "Trial", again: list[str]) -> Mapping[str, Any]:
    command = [*again, "--points", str(trial)] if trial.kills else again
    return {
        "kills": [str(kill) for kill in trial.kills],
        "calls": [list(calls) for calls in trial.calls],
        "violations": [
            {"invariant": each.invariant, "what": each.what, "rows": list(each.rows)}
            for each in trial.violations
        ],
        "replay": " ".join(map(quote, command)),
    }


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["points"]:
        yield from table(_by_call(facts["points"]), _COLUMNS)
        yield ""
    runs = facts["runs"]
    yield f"{runs} run{'s' * (runs != 1)}, {facts['hit']} killed, {facts['broken']} broken"
    failure = facts["failure"]
    if failure is None:
        return
    yield f"\nthe shortest failure: {' > '.join(failure['kills']) or 'without a crash'}"
    for kill, calls in zip(failure["kills"], failure["calls"], strict=True):
        yield f"  the {len(calls)} calls up to {kill}"
        yield from _indented([f"{n} {call}" for n, call in enumerate(calls, 1)][-_MOST_SHOWN:])
    for each in failure["violations"]:
        yield f"  {each['invariant']}: {each['what']}"
        if rows := each["rows"][:_MOST_SHOWN]:
            yield from _indented(table(rows, list(rows[0])))
    yield f"  again: {failure['replay']}"


def _indented(lines: list[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


def _by_call(points: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A row for each call where a process died last, in the order of the first one."""
    rows: dict[str, dict[str, Any]] = {}
    named: dict[str, Counter[str]] = {}
    for point in points:
        call = point["kills"][-1].partition("/")[0]
        row = rows.setdefault(call, {"call": call, "runs": 0, "broken": 0, "not_reached": 0})
        row["runs"] += 1
        row["broken"] += point["result"] == "broken"
        row["not_reached"] += point["result"] == "not reached"
        named.setdefault(call, Counter()).update(point["names"])
    return [{**row, "points": list(named[call])} for call, row in rows.items()]
