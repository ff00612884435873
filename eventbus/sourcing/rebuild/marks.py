"""Marks of the parts of a scan: checkpoints that say how far each is."""

from eventbus.errors import EventBusError, ProjectionError
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.recorded import Recorded
from eventbus.storage import Transaction
from eventbus.storage.events import Position
from eventbus.storage.projections import ProjectionVersion

MOST_PARKED = 10_000  # events of a scan that may wait; above, the code is wrong, not the events


def mark_name(version: ProjectionVersion, number: int, of: int) -> str:
    """The checkpoint that says how far a part is, and the lease of who makes it."""
    return f"{marks_of(version)}{number}/{of}"


def marks_of(version: ProjectionVersion) -> str:
    """What the names of all marks of a version begin with."""
    return f"scan/{version.name}@{version.version}/"


def place_of(mark: str) -> tuple[int, int]:
    """Which part it is, and of how many."""
    number, of = mark.rsplit("/", 2)[1:]
    return int(number), int(of)


async def marked(tx: Transaction, definition: Definition, mark: str) -> Position:
    """Where the mark of a part stands; it is made if it is not there.

    Raises:
        StorageError: EB5202, a part of other code.
    """
    return await tx.checkpoints.load(mark, fingerprint=definition.code_hash)


def unreadable(definition: Definition, event: Recorded, why: object) -> ProjectionError:
    """EB6009: this code cannot go over this event."""
    recorded = event.recorded
    return ProjectionError(
        "EB6009",
        f"projection {definition.name!r} cannot be rebuilt from this log",
        where=f"{recorded.type} at {recorded.position}, {recorded.stream}@{recorded.version}",
        why=_said(why),
        next="deploy code that reads it, then again with --resume; what serves is untouched",
    )


def _said(why: object) -> str:
    if isinstance(why, EventBusError):
        return f"{why.what}: {why.why}"
    return f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
