"""K10: what must have happened in a run; a fault that did not hit counts as not run."""

from collections.abc import Collection, Iterable

from eventbus.testing.faults import (
    POINTS,
    Conflict,
    Delay,
    Duplicate,
    Fault,
    Hang,
    Hit,
    Kill,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
)

WITHOUT_STORAGE = frozenset({"deadletter.sent", "deadletter.confirmed"})
"""Points that a bus with a storage does not have."""

SWEPT_APART = frozenset(
    point for point in POINTS if point.startswith(("projection.", "saga.", "participant."))
)
"""Points of sweeps of their own: `projecting`, `saga_dying`."""

KINDS: tuple[type[Fault], ...] = (
    Conflict,
    Delay,
    Duplicate,
    Hang,
    Kill,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
)

MARKS = frozenset(
    {
        "kill",  # a process died with work in hand
        "drain",  # one left with work in hand
        "poison",  # row 33: a handler that always raises
        "error",
        "late error",  # with everything written
        "retry",
        "dead",
        "hang",  # row 36
        "redrive",
        "commit unknown",  # row 19
        "plain",  # bus.publish
        "pause",
        "outage",  # row 56
        "quarantined",  # row 34
        "recovered",  # an unknown publish that did commit
    }
)


def missing(hits: Iterable[Hit], marks: Collection[str]) -> set[str]:
    """Crash points, kinds of faults and happenings that no schedule of a run showed."""
    seen = list(hits)
    points = {point for hit in seen for point in hit.points}
    kinds = {type(hit.fault) for hit in seen}
    return (
        (set(POINTS) - WITHOUT_STORAGE - SWEPT_APART - points)
        | {kind.__name__ for kind in KINDS if kind not in kinds}
        | (MARKS - set(marks))
    )
