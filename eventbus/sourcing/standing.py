"""Where a projection stands, and why it lags: who holds the bound, which event fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eventbus.inspection import Inspection, Selection
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.shard import MOST_HELD, lease_prefix, shard_name
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Filter, Holder, Position, ReadBound, RecordedMessage
from eventbus.storage.projections import Progress, ProjectionVersion, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a projection stands."""

    name: str
    runs: str  # following, inline, live
    version: int | None  # the active one; None: it never ran
    versions: Mapping[int, Status]
    shards: int
    positions: Mapping[str, Position]  # by shard
    lag_events: int  # positions up to the bound: as many events, or fewer
    lag_seconds: float  # age of the first event that is not in it yet
    parked: int  # sequences that wait
    rebuild: Progress | None  # the last one, while its version is being built
    cause: str | None  # why it lags, or why something waits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What was found in one transaction."""

    active: ProjectionVersion
    positions: Mapping[str, Position]
    held: set[str]
    first: RecordedMessage | None  # that is not in it
    owners: int
    paused: bool
    holders: Sequence[Holder]


async def standing_of(storage: Storage, inspection: Inspection, definition: Definition) -> Standing:
    """Look; nothing is changed."""
    name = definition.name
    bound = await storage.read_bound()
    async with storage.transaction() as tx:
        versions = await tx.projections.versions(name)
        active = next((one for one in versions if one.status == "active"), None)
        building = any(one.status == "building" for one in versions)
        rebuild = await tx.projections.standing(name) if building else None
        seen = None if active is None else await _seen(tx, definition, active, bound)
        first = None
        if active is None and definition.runs == "following":
            first = await first_after(tx, definition, Position(0), bound.bound)
    if seen is None:
        return _standing(
            definition,
            versions,
            rebuild,
            _never_ran(definition),
            lag_events=0 if first is None else bound.bound,
            lag_seconds=0.0 if first is None else _age(first),
        )
    if seen.active.runs == "inline":
        return _standing(definition, versions, rebuild, _lacks(seen), active=seen.active)
    behind = min(seen.positions.values(), default=Position(0))
    return _standing(
        definition,
        versions,
        rebuild,
        await _cause(inspection, seen, bound),
        active=seen.active,
        positions=seen.positions,
        lag_events=0 if seen.first is None else max(0, bound.bound - behind),
        lag_seconds=0.0 if seen.first is None else _age(seen.first),
        parked=len(seen.held),
    )


async def held_of(tx: Transaction, version: ProjectionVersion) -> set[str]:
    """The keys of rows and streams that wait, of all shards."""
    found: set[str] = set()
    for number in range(version.shards):
        group = f"projection:{shard_name(version, number)}"
        found |= await tx.parking.keys(group=group, limit=MOST_HELD)
    return found


async def _seen(
    tx: Transaction, definition: Definition, active: ProjectionVersion, found: ReadBound
) -> _Seen:
    name = definition.name
    positions = await tx.checkpoints.positions(f"{name}@{active.version}/")
    after, upto = min(positions.values(), default=Position(0)), found.bound
    if active.runs == "inline":  # is anything missing that was there before it began?
        after, upto = Position(0), max(positions.values(), default=Position(0))
    return _Seen(
        active=active,
        positions=positions,
        held=await held_of(tx, active),
        first=await first_after(tx, definition, after, upto),
        owners=await tx.leases.owners(lease_prefix(active)),
        paused=await tx.leases.owners(f"paused/projection/{name}/") > 0,
        holders=await tx.events.holders() if found.bound < found.head else (),
    )


async def first_after(
    tx: Transaction, definition: Definition, position: Position, bound: Position
) -> RecordedMessage | None:
    """The first event of a projection after a position, up to a bound."""
    only = Filter(types=definition.types)
    while position < bound:
        page = await tx.events.read_all(after=position, limit=1, upto=bound, only=only)
        if page.events:
            return page.events[0]
        if page.read_to <= position:
            return None
        position = page.read_to
    return None


async def _cause(inspection: Inspection, seen: _Seen, found: ReadBound) -> str | None:
    active = seen.active
    if seen.paused:
        return "paused by an operator"
    if seen.held:
        return await _failing(inspection, active, seen.held)
    if seen.first is not None and seen.owners < active.shards:
        return f"{active.shards - seen.owners} of {active.shards} shards have no worker"
    if found.bound < found.head:
        return _holding(seen.holders)
    return None


async def _failing(inspection: Inspection, active: ProjectionVersion, held: set[str]) -> str:
    waiting = f"{len(held)} sequences wait: {', '.join(sorted(held)[:3])}"
    for number in range(active.shards):
        group = f"projection:{shard_name(active, number)}"
        for row in await inspection.find(Selection(place="parked", group=group), limit=1):
            place = str(row["origin"]).removeprefix("log:")
            tries = f"{row['attempts']} attempts"
            return f"{waiting}; {place} failed: {row['error_type']}: {row['error']} ({tries})"
    return waiting


def _holding(holders: Sequence[Holder]) -> str:
    what = "an append that has not committed yet holds the bound"
    if not holders:
        return what
    told = [
        f"pid {one.pid} {one.application or 'without application_name'}"
        + ("" if one.seconds is None else f", open for {one.seconds:.1f} s")
        for one in holders
    ]
    return f"{what}: {'; '.join(told)}"


def _lacks(seen: _Seen) -> str | None:
    """Inline is never behind; but what was recorded before it began is not in it."""
    if seen.active.built_to is not None or seen.first is None:
        return None
    began = max(seen.positions.values(), default=Position(0))
    return f"what was recorded up to {began} is not in it: rebuild it"


def _never_ran(definition: Definition) -> str | None:
    return None if definition.runs == "live" else "it never ran on this database"


def _standing(
    definition: Definition,
    versions: Sequence[ProjectionVersion],
    rebuild: Progress | None,
    cause: str | None,
    *,
    active: ProjectionVersion | None = None,
    positions: Mapping[str, Position] | None = None,
    lag_events: int = 0,
    lag_seconds: float = 0.0,
    parked: int = 0,
) -> Standing:
    return Standing(
        name=definition.name,
        runs=definition.runs,
        version=None if active is None else active.version,
        versions={one.version: one.status for one in versions},
        shards=definition.shards if active is None else active.shards,
        positions=positions or {},
        lag_events=lag_events,
        lag_seconds=lag_seconds,
        parked=parked,
        rebuild=rebuild,
        cause=cause,
    )


def _age(recorded: RecordedMessage) -> float:
    return max(0.0, (datetime.now(UTC) - recorded.recorded_at).total_seconds())
