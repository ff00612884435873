"""Messages of a place, as `list`, `show` and `export` read them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eventbus.cli.flags import Settings
from eventbus.cli.locate import called
from eventbus.cli.output import cell, show_facts, to_json
from eventbus.cli.storages import with_storage

if TYPE_CHECKING:
    from eventbus.inspection import Inspected, Kind, Selection

_FACTS = ("id", "type", "key", "group", "topic", "source", "state", "attempts", "age_seconds")
_STORY = ("due_in_seconds", "waiting", "origin", "reason", "code", "error_type", "error")


def found(settings: Settings, what: "Selection", limit: int) -> Sequence[Mapping[str, Any]]:
    """Rows that a selection picks, oldest first."""

    async def ask(storage: "Inspected") -> Sequence[Mapping[str, Any]]:
        return await storage.inspection.find(what, limit=limit)

    return with_storage(settings, ask)


def row_of(settings: Settings, place: "Kind", id: str) -> Mapping[str, Any]:
    """The row of one message; the first, where several groups have it.

    Raises:
        EventBusError: EB8004, there is none.
    """
    from eventbus.errors import EventBusError
    from eventbus.inspection import Selection

    for row in found(settings, Selection(place=place, ids=(id,)), 1):
        return row
    raise EventBusError(
        "EB8004",
        f"no such message: {id}",
        where=called(),
        why=f"{place} has no row of this id: handled meanwhile, discarded, or in another place",
        next=f"eventbus {place} list",
    )


def show_one(settings: Settings, place: "Kind", id: str) -> None:
    """One message, whole."""
    row = row_of(settings, place, id)
    show_facts(settings, f"{place} show", row, _lines(row))


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    for name in (*_FACTS, *_STORY, "fingerprint"):
        if row.get(name) is not None:
            yield f"{name.replace('_', ' '):<15}{cell(row[name])}"
    for name, value in row["headers"].items():
        yield f"{'header':<15}{cell(name)}: {cell(value)}"
    yield f"{'payload':<15}{cell(to_json(row['payload']) if _is_binary(row) else _text(row))}"


def _is_binary(row: Mapping[str, Any]) -> bool:
    try:
        _text(row)
    except UnicodeDecodeError:
        return True
    return False


def _text(row: Mapping[str, Any]) -> str:
    return bytes(row["payload"]).decode()
