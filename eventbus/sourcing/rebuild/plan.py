"""What a rebuild builds: a new version beside the active one, or one begun before."""

from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.options import START, Options
from eventbus.sourcing.shard import MOST_HELD, shard_name
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Filter, Position
from eventbus.storage.projections import ProjectionVersion, Table, shadow_of


@dataclass(frozen=True, slots=True)
class Plan:
    """From which version to which, and in which tables."""

    old: ProjectionVersion
    new: ProjectionVersion
    tables: tuple[tuple[Table, Table], ...]  # each that serves, and its shadow


async def planned(storage: Storage, definition: Definition, options: Options) -> Plan:
    """The plan of this code; a shadow of other code is dropped.

    Raises:
        ProjectionError: EB6010, there is nothing to rebuild, or to go on with, or to begin after;
            EB6014, the log lacks events.
    """
    if definition.runs == "live":
        raise refusals.nothing(definition.name, "it keeps no rows: they are folded on read")
    if not definition.tables:
        raise refusals.nothing(definition.name, "it does not name its tables: tables = (…)")
    read = await storage.read_bound()
    bound = read.bound
    if not isinstance(options.since, datetime) and options.since > read.head:
        raise refusals.ahead(definition.name, options.since, read.head)
    async with storage.transaction() as tx:
        versions = await tx.projections.versions(definition.name)
        cut = await tx.projections.cut()
    active = next((one for one in versions if one.status == "active"), None)
    if active is None:
        raise refusals.nothing(
            definition.name, "it never ran: a worker makes it from the log by itself"
        )
    if cut and not options.allow_truncated:
        raise refusals.truncated(definition.name, cut)
    upto = await _upto(storage, definition, active, bound)
    code = code_of(definition, options)
    building = [one for one in versions if one.status == "building" and not one.served]
    same = [one for one in building if one.code_hash == code]
    if same and not await _to_begin_anew(storage, same[-1], options):
        new = await _gone_on(storage, same[-1], upto)
    elif options.resume:
        raise refusals.nothing(definition.name, "no shadow of this code is there to go on with")
    else:
        number = max(one.version for one in versions) + 1
        new = replace(
            active,
            version=number,
            status="building",
            code_hash=code,
            shards=definition.shards,
            built_to=upto,
            publishes_after=upto,
            runs=definition.runs,
            tables=definition.tables,
            served=False,
        )
        await _begun(storage, definition, active, new, building)
    tables = await _tables(storage, definition)
    return Plan(active, new, tuple((one, shadow_of(one, new.version)) for one in tables))


async def _to_begin_anew(storage: Storage, version: ProjectionVersion, options: Options) -> bool:
    """Events wait in it: who mended what the functions call has the same code as before.

    They are of nobody who would try them again before the switch.
    """
    if options.resume or options.allow_parked:
        return False
    async with storage.transaction() as tx:
        return bool(await parked_in(tx, version))


async def parked_in(tx: Transaction, version: ProjectionVersion) -> int:
    """How many sequences of a version wait."""
    found = 0
    for number in range(version.shards):
        group = f"projection:{shard_name(version, number)}"
        found += len(await tx.parking.keys(group=group, limit=MOST_HELD))
    return found


def code_of(definition: Definition, options: Options) -> bytes:
    """What a shadow is told apart by: the code, and which events are in it."""
    if options.since == START and not options.streams:
        return definition.code_hash
    what = "\0".join([str(options.since), *sorted(options.streams)])
    return sha256(definition.code_hash + what.encode()).digest()


def filter_of(definition: Definition, options: Options) -> Filter:
    """Which events are in what is built."""
    return Filter(types=definition.types, streams=options.streams)


async def _upto(
    storage: Storage, definition: Definition, active: ProjectionVersion, bound: Position
) -> Position:
    """As far as the version that serves has come, for it may not move any more (EB5202).

    Both have to stand at one position in the end; the new one reads on from there.
    """
    if "inline" in {active.runs, definition.runs}:
        return bound
    async with storage.transaction() as tx:
        standing = await tx.checkpoints.positions(f"{active.name}@{active.version}/")
    return min([bound, *standing.values()])


async def _gone_on(
    storage: Storage, version: ProjectionVersion, upto: Position
) -> ProjectionVersion:
    if version.built_to is not None:
        return version
    async with storage.transaction() as tx:
        await tx.projections.built(version.name, version.version, to=upto)
    return replace(version, built_to=upto)


async def _begun(
    storage: Storage,
    definition: Definition,
    active: ProjectionVersion,
    version: ProjectionVersion,
    others: list[ProjectionVersion],
) -> None:
    await _tables(storage, definition)
    async with storage.transaction() as tx:
        for one in others:
            await tx.projections.drop(one.name, one.version)
        if definition.rows is not None:
            await tx.projections.create(version, shadow_of(definition.rows.table, version.version))
            return
        # what is new serves already, made by a migration: a switch moves it aside with the others
        tables = dict.fromkeys((*active.tables, *version.tables))
        await tx.own_tables.keep(active.name, active.version, tuple(tables))
        await tx.projections.create(version, None)
        await tx.own_tables.imitate(version.tables, version.version)


async def _tables(storage: Storage, definition: Definition) -> list[Table]:
    """Those that serve, with their columns and keys.

    Raises:
        ProjectionError: EB6010, of the general form one is not there, or has no key.
    """
    if definition.rows is not None:
        return [definition.rows.table]
    found: list[Table] = []
    async with storage.transaction() as tx:
        for name in definition.tables:
            table = await tx.own_tables.described(name)
            if table is None:
                raise refusals.nothing(definition.name, f"there is no table {name!r}")
            if not table.key:
                why = f"table {name!r} has no primary key, by which rows could be compared"
                raise refusals.nothing(definition.name, why)
            found.append(table)
    return found
