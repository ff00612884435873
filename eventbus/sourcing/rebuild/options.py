"""What a rebuild is told, what it tells, and what it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from eventbus.storage.events import Position
from eventbus.storage.projections import Difference

START = Position(0)
Report = Callable[[int, int], None]
"""(done, rows): the highest position read, and how many rows there are in memory."""

PAGE = 5000  # events of a scan
MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a rebuild may, and what it leaves."""

    parts: int = 1  # of the scan: each holds so much less in memory; whoever helps takes one
    most_rows: int = MOST_ROWS  # of a part in memory; one that has more is split
    page: int = PAGE
    rate: float | None = None  # events per second; None: as fast as it goes
    sample: int = 0  # keys that are compared; 0: all
    since: Position | datetime = START  # only what was recorded after it
    streams: tuple[str, ...] = ()  # only what they hold; empty: all
    switch: bool = True
    resume: bool = False  # go on with a shadow of this code, or fail
    allow_truncated: bool = False
    allow_parked: bool = False
    require_equal: bool = False
    actor: str = ""  # who asks, for the audit; empty: the process
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How far a part of the scan is, whoever makes it."""

    name: str  # number and how many they are: 0/4
    phase: str  # waiting, replay, done, or split into two others
    done: int  # positions read
    total: int
    rows: int


@dataclass(slots=True)
class Beat:
    """How far it is, now."""

    name: str
    old: int
    new: int
    table: str
    parts: int
    phase: str = "plan"
    done: int = 0
    total: int = 0
    rows: int = 0
    parked: int = 0
    shards: Sequence[Part] = ()  # of the scan, once it begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What became of it."""

    name: str
    old: int
    new: int
    rows: int
    built_to: Position
    difference: Difference
    parked: int
    switched: bool
