"""Why a rebuild, a switch or a rollback is refused; what serves is untouched each time."""

from eventbus.errors import ProjectionError, StorageError
from eventbus.storage.events import Position
from eventbus.storage.projections import Difference

TRIES = 100  # of a switch that met readers, or workers at different positions


def busy(name: str, how_far: str) -> ProjectionError:
    """EB6004: somebody rebuilds it."""
    return ProjectionError(
        "EB6004",
        f"projection {name!r} is already being rebuilt",
        where=f"lease rebuild/{name}" + (f", {how_far}" if how_far else ""),
        why="two rebuilds would write one shadow table; a lease that nobody renews ends in 10 s",
        next=f"eventbus projection status {name} APP --watch",
    )


def nothing(name: str, why: str) -> ProjectionError:
    """EB6010: there is nothing to rebuild, or to roll back to."""
    return ProjectionError(
        "EB6010",
        f"projection {name!r} cannot do that",
        where="rebuild or rollback",
        why=why,
        next=f"eventbus projection status {name} APP",
    )


def ahead(name: str, since: Position, head: Position) -> ProjectionError:
    """EB6010: the new rows would have nothing in them."""
    why = f"position {since} is ahead of the log, which ends at {head}: no row would be left"
    return nothing(name, why)


def empty(name: str, difference: Difference) -> ProjectionError:
    """EB6010: a part of the log was asked for that no row comes from."""
    why = f"what was asked for of the log makes no row, and {difference.gone:,} would be gone"
    return nothing(name, why)


def differs(name: str, difference: Difference) -> ProjectionError:
    """EB6011: under `require_equal`."""
    return ProjectionError(
        "EB6011",
        f"the new version of projection {name!r} differs",
        where="verify, under --require-equal",
        why=f"{difference.differ:,} rows differ, {difference.new:,} are new,"
        f" {difference.gone:,} are gone; {difference.equal:,} are equal",
        next="what serves is untouched; without --require-equal it may be switched to",
    )


def parked(name: str, amount: int) -> ProjectionError:
    """EB6012: events failed in the new version."""
    return ProjectionError(
        "EB6012",
        f"the new version of projection {name!r} has {amount} sequences that wait",
        where="switch",
        why="events failed in it: its rows would lack them",
        next="eventbus parked list; mend the projection and rebuild, or --allow-parked",
    )


def never_level(name: str, serves: Position, new: Position) -> ProjectionError:
    """EB6013: the versions never stood together; or the one that serves is behind, and stays so."""
    why = "workers of its shards stand apart as long as much is recorded, or readers held locks"
    to_do = f"eventbus projection pause {name} APP, then rebuild --resume, then resume it"
    if serves < new:
        why = f"what serves stands at {serves:,}, the new one at {new:,}: no worker moves it"
        to_do = (
            f"run a worker until eventbus projection status {name} APP has no lag; rebuild again"
        )
    return ProjectionError(
        "EB6013",
        f"the versions of projection {name!r} never stood at one position",
        where=f"{TRIES} tries to switch",
        why=why,
        next=to_do,
    )


def no_space(name: str, phase: str, error: StorageError) -> StorageError:
    """EB5006: the disk is full, or would be."""
    return StorageError(
        "EB5006",
        f"there is no space to rebuild projection {name!r}",
        where=f"{phase}: {error.where}",
        why=f"{error.what}: {error.why}",
        next=f"free space, then eventbus projection rebuild {name} APP: it goes on;"
        " what serves is untouched",
    )


def truncated(name: str, cut: int) -> ProjectionError:
    """EB6014: the log lacks events."""
    return ProjectionError(
        "EB6014",
        f"projection {name!r} would be rebuilt from a log that lacks events",
        where=f"{cut} streams were truncated or tombstoned",
        why="rows that their events made would be gone or wrong",
        next="append a summary event to each of them first, or --allow-truncated",
    )
