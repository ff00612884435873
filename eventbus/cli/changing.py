"""How every changing command goes: count, show, ask, change, say what became of it."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.failures import DONE, PARTLY
from eventbus.cli.flags import Settings
from eventbus.cli.locate import called
from eventbus.cli.output import note, show_facts
from eventbus.cli.storages import actor, with_storage
from eventbus.errors import CommitUnknownError, ConfigurationError, EventBusError, StorageError

if TYPE_CHECKING:
    from eventbus.inspection import Inspected, Selection, Verb

# what a verb counts, and how its result reads
_UNITS: dict[str, tuple[str, str]] = {
    "retry": ("message", "sent again"),
    "release": ("key", "due now"),
    "bury": ("key", "dead now"),
    "redrive": ("key", "tried again"),
    "discard": ("message", "discarded"),
    "restore": ("message", "restored"),
    "edit": ("message", "edited"),
    "pause": ("place", "paused"),
    "resume": ("place", "resumed"),
}


def change(
    settings: Settings,
    verb: "Verb",
    what: "Selection",
    *,
    reason: str = "",
    rate: float | None = None,
    limit: int | None = None,
) -> int:
    """Change what is selected as the output contract says; the exit code.

    Raises:
        EventBusError: EB8002, not confirmed; EB8004, none of the ids is there; EB5101, no answer.
    """
    more: dict[str, Any] = {"actor": actor(), "reason": reason, "rate": rate, "limit": limit}

    async def counted(storage: "Inspected") -> tuple[int, list[str]]:
        missing = await _missing(storage, verb, what)
        return await storage.inspection.change(verb, what, dry_run=True, **more), missing

    async def changed(storage: "Inspected") -> int:
        return await storage.inspection.change(verb, what, **more)

    count, missing = with_storage(settings, counted)
    unit, result = _UNITS[verb]
    if what.ids and (len(missing) == len(what.ids) or (verb == "restore" and count == 0)):
        raise _not_there(what, verb)
    for one in missing:
        note(settings, f"not found: {one}")
    affected = f"{_number(count, unit)} of {what.place}: {result}"
    if not settings.dry_run and count:
        confirm(settings, affected)
        try:
            count = with_storage(settings, changed)
        except StorageError as error:
            raise (_unknown(what, verb, error) if error.code == "EB5007" else error) from error
    show_facts(
        settings,
        f"{what.place} {verb}",
        {
            "verb": verb,
            "place": what.place,
            "count": count,
            "unit": unit,
            "dry_run": settings.dry_run,
            "missing": missing,
        },
        [f"{'would be: ' if settings.dry_run else ''}{_number(count, unit)} {result}"],
    )
    return PARTLY if missing else DONE


def confirm(settings: Settings, affected: str) -> None:
    """Say what a change will touch and ask; --yes answers, without a terminal nothing else does.

    Raises:
        ConfigurationError: EB8002, nobody said yes.
    """
    note(settings, affected)
    if settings.yes:
        return
    asked = sys.stdin.isatty()
    if asked:
        with suppress(click.Abort):
            if click.confirm("go on?", err=True):
                return
    raise ConfigurationError(
        "EB8002",
        f"not confirmed: {affected}",
        where=called(),
        why="the answer was no" if asked else "there is no terminal to ask on",
        next="--yes does it | --dry-run only counts",
    )


def one_of(ids: Sequence[str], *, everything: bool, or_else: str) -> None:
    """Refuse a change that selects nothing, rather than take it for all.

    Raises:
        ConfigurationError: EB8003.
    """
    if ids or everything:
        return
    raise ConfigurationError(
        "EB8003",
        "nothing is selected",
        where=called(),
        why="without a selection a change would touch everything",
        next=f"name ids, or {or_else}",
    )


async def _missing(storage: "Inspected", verb: str, what: "Selection") -> list[str]:
    if not what.ids or verb == "restore":  # what is discarded stands in no list
        return []
    rows = await storage.inspection.find(what, limit=10_000)
    there = {row["id"] for row in rows}
    return [one for one in what.ids if one not in there]


def _number(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _not_there(what: "Selection", verb: str) -> EventBusError:
    ids = list(what.ids)
    return EventBusError(
        "EB8004",
        f"no such message: {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else ""),
        where=called(),
        why=f"{what.place} has no row of this id that {verb} could change",
        next=f"eventbus {what.place} list",
    )


def _unknown(what: "Selection", verb: str, error: Exception) -> EventBusError:
    return CommitUnknownError(
        "EB5101",
        f"whether {verb} was done is unknown",
        ids=what.ids,
        where=called(),
        why=str(getattr(error, "what", error)),
        next=f"eventbus {what.place} list shows what it is now; the change is one transaction",
    )
