"""Rebuilding a read model while it serves: plan, scan, index, catch up, verify, switch, undo."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from random import Random
from typing import TypeVar
from uuid import uuid4

from eventbus.codec import Registry
from eventbus.errors import LeaseLostError, ProjectionError, StorageError
from eventbus.service import end
from eventbus.sourcing.batch import Batches
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.recorded import Recorded
from eventbus.sourcing.scan import START, Scan
from eventbus.sourcing.shard import MOST_HELD, Shard, lease_name, loaded, shard_name
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Filter, Position
from eventbus.storage.leases import Lease
from eventbus.storage.projections import Difference, ProjectionVersion, Table, shadow_of

log: logging.Logger = logging.getLogger("eventbus.sourcing")
T = TypeVar("T")

TTL = timedelta(seconds=10)
BEAT_SECONDS = 1.0
PAGE = 5000  # events of a scan
LEVEL = 2000  # events of a page while it catches up
NEAR = 2000  # positions: so close, the rest is read while the old version waits
TRIES = 100  # of a switch that met readers, or workers at different positions
_MET_OTHERS = frozenset({"EB5007", "EB5011", "EB6008"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a rebuild may, and what it leaves."""

    parts: int = 1  # of the scan, one after another: each holds so much less in memory
    page: int = PAGE
    rate: float | None = None  # events per second; None: as fast as it goes
    sample: int = 0  # keys that are compared; 0: all
    since: Position | datetime = START  # only what was recorded after it
    switch: bool = True
    resume: bool = False  # go on with a shadow of this code, or fail
    allow_truncated: bool = False
    allow_parked: bool = False
    require_equal: bool = False


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
    notes: list[str] = field(default_factory=list[str])


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


class Rebuild:
    """One at a time for a projection; what was killed is gone on with.

    Args:
        storage: entered.
        definition: the code that it is built by.
        registry: decodes what is recorded.
        encode: not used for effects: they are off.
        options: what it may.
        beat: is told how far it is, at least each second.
        confirm: asked with the difference before the switch; False: not now.
    """

    def __init__(
        self,
        storage: Storage,
        definition: Definition,
        registry: Registry,
        *,
        encode: Encode,
        options: Options,
        beat: Callable[[Beat], None] = lambda _: None,
        confirm: Callable[[Difference], Awaitable[bool]] | None = None,
    ) -> None:
        self._storage = storage
        self._definition = definition
        self._registry = registry
        self._options = options
        self._tell = beat
        self._confirm = confirm
        self._batches = Batches(definition, encode, Random())  # noqa: S311 - jitter
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._lease: Lease | None = None
        self._leases: list[Lease] = []  # of the new version's shards
        self._lost = False
        self._beat = Beat(definition.name, 0, 0, "", options.parts)

    async def run(self) -> Rebuilt:
        """All phases; what serves is untouched until the switch.

        Raises:
            ProjectionError: EB6004 somebody rebuilds it, EB6009 the log cannot be read by this
                code, EB6010 there is nothing to rebuild, EB6011 it differs under `require_equal`,
                EB6012 events are parked, EB6014 streams were truncated.
            StorageError: the database; run it again, it goes on.
        """
        if self._definition.rows is None or self._definition.runs != "following":
            raise _nothing(self._definition.name, "only rows that follow the log are rebuilt")
        async with self._owned():
            old, new = await self._plan()
            table = self._definition.rows.table
            shadow = shadow_of(table, new.version)
            self._beat.old, self._beat.new, self._beat.table = old.version, new.version, shadow.name
            rows = await self._scan(new, shadow)
            await self._index(shadow)
            shards = await self._shards(new)
            await self._catch_up(old, shards)
            difference = await self._verify(old, shards, table, shadow)
            parked = await self._parked(new)
            switched = await self._switch(old, shards, difference, parked)
            await self._say("done", done=1, total=1)
            return Rebuilt(
                name=new.name,
                old=old.version,
                new=new.version,
                rows=rows,
                built_to=new.built_to or START,
                difference=difference,
                parked=parked,
                switched=switched,
            )

    # -- phases ----------------------------------------------------------------------------------

    async def _plan(self) -> tuple[ProjectionVersion, ProjectionVersion]:
        await self._say("plan")
        name, options = self._definition.name, self._options
        bound = (await self._storage.read_bound()).bound
        async with self._storage.transaction() as tx:
            versions = await tx.projections.versions(name)
            cut = await tx.projections.cut()
        active = next((one for one in versions if one.status == "active"), None)
        if active is None:
            raise _nothing(name, "it never ran: a worker makes it from the log by itself")
        if cut and not options.allow_truncated:
            raise _truncated(name, cut)
        building = [one for one in versions if one.status == "building"]
        same = [one for one in building if one.code_hash == self._code]
        if same:
            return active, await self._gone_on(same[-1], bound)
        if options.resume:
            raise _nothing(name, "no shadow of this code is there to go on with")
        async with self._storage.transaction() as tx:
            for one in building:
                await tx.projections.drop(name, one.version)
            number = max(one.version for one in versions) + 1
            new = replace(
                active,
                version=number,
                status="building",
                code_hash=self._code,
                shards=self._definition.shards,
                built_to=bound,
                publishes_after=bound,
            )
            assert self._definition.rows is not None  # noqa: S101 - checked by the only caller
            await tx.projections.create(new, shadow_of(self._definition.rows.table, number))
        return active, new

    async def _gone_on(self, version: ProjectionVersion, bound: Position) -> ProjectionVersion:
        if version.built_to is not None:
            return version
        async with self._storage.transaction() as tx:
            await tx.projections.built(version.name, version.version, to=bound)
        return replace(version, built_to=bound)

    async def _scan(self, version: ProjectionVersion, shadow: Table) -> int:
        async with self._storage.transaction() as tx:
            standing = await tx.checkpoints.positions(f"{version.name}@{version.version}/")
            marks = await tx.checkpoints.positions(f"scan/{version.name}@{version.version}/")
        if standing:
            return 0  # it was scanned, and follows since
        options = self._options
        parts = int(next(iter(marks)).rpartition("/")[2]) if marks else options.parts
        scan = Scan(
            self._storage,
            self._definition,
            self._registry,
            version,
            shadow,
            page=options.page,
            rate=options.rate,
            since=options.since,
        )
        upto = version.built_to or START
        self._beat.phase, self._beat.total, self._beat.parts = "replay", upto * parts, parts
        rows = 0
        for number in range(parts):

            def report(done: int, found: int, first: int = number, before: int = rows) -> None:
                self._beat.done = first * upto + done
                self._beat.rows = before + found
                self._tell(self._beat)

            assert self._lease is not None  # noqa: S101 - owned
            await self._while_owned(scan.part(self._lease, number, parts, report))
            rows = self._beat.rows
        async with self._storage.transaction() as tx:
            for number in range(version.shards):
                await tx.checkpoints.load(
                    shard_name(version, number),
                    fingerprint=self._definition.fingerprint,
                    start=upto,
                )
        return rows

    async def _index(self, shadow: Table) -> None:
        await self._say("index")
        async with self._storage.transaction() as tx:
            await self._while_owned(tx.projections.index(shadow))

    async def _shards(self, version: ProjectionVersion) -> list[Shard]:
        """The new version's shards are ours: nobody else follows what is being built."""
        names = [lease_name(version, number) for number in range(version.shards)]
        async with asyncio.timeout(3 * TTL.total_seconds()):
            while len(self._leases) < len(names):  # those of a rebuild that was killed run out
                free = [name for name in names if name not in {one.name for one in self._leases}]
                async with self._storage.transaction() as tx:
                    self._leases += await tx.leases.acquire(
                        free, owner=self._owner, ttl=TTL, limit=len(free)
                    )
                if len(self._leases) < len(names):
                    await asyncio.sleep(BEAT_SECONDS / 2)
        async with self._storage.transaction() as tx:
            return [await loaded(tx, self._definition, version, one) for one in self._leases]

    async def _catch_up(self, old: ProjectionVersion, shards: list[Shard]) -> None:
        """Never beyond the old version: then both can stand at one position."""
        self._beat.phase, self._beat.done = "catch up", 0
        first = min(shard.position for shard in shards)
        while True:
            upto = await self._old_position(old)
            here = min(shard.position for shard in shards)
            await self._say("catch up", done=max(0, here - first), total=max(0, upto - first))
            if here >= upto or upto - here <= NEAR:
                return
            await self._page(shards, upto)

    async def _verify(
        self, old: ProjectionVersion, shards: list[Shard], table: Table, shadow: Table
    ) -> Difference:
        await self._say("verify")

        async def compare(tx: Transaction) -> Difference:
            return await tx.projections.compare(table, shadow, sample=self._options.sample)

        difference = await self._while_owned(self._level(old, shards, compare))
        if self._options.require_equal and (difference.differ or difference.new or difference.gone):
            raise _differs(self._definition.name, difference)
        return difference

    async def _switch(
        self, old: ProjectionVersion, shards: list[Shard], difference: Difference, parked: int
    ) -> bool:
        if not self._options.switch:
            return False
        if parked and not self._options.allow_parked:
            raise _parked(self._definition.name, parked)
        if self._confirm is not None and not await self._confirm(difference):
            return False
        await self._say("switch")
        new = shards[0].version

        async def switch(tx: Transaction) -> None:
            await tx.projections.switch(new.name, to=new.version)
            await tx.leases.release([shard.lease for shard in shards])

        await self._while_owned(self._level(old, shards, switch))
        return True

    # -- in parts --------------------------------------------------------------------------------

    async def _level(
        self,
        old: ProjectionVersion,
        shards: list[Shard],
        act: Callable[[Transaction], Awaitable[T]],
    ) -> T:
        """Act in a transaction in which both versions stand at one position, and nobody moves.

        Raises:
            ProjectionError: EB6013, the old version's workers never stood together.
        """
        for attempt in range(TRIES):
            await self._catch_up(old, shards)
            before = [(shard.position, set(shard.held)) for shard in shards]
            try:
                async with self._storage.transaction() as tx:
                    standing = await tx.projections.hold(old.name)
                    prefix = f"{old.name}@{old.version}/"
                    places = {at for one, at in standing.items() if one.startswith(prefix)}
                    if len(places) == 1:
                        await self._level_within(tx, shards, places.pop())
                        return await act(tx)
            except StorageError as error:
                for shard, (position, held) in zip(shards, before, strict=True):
                    shard.forget(position, held)
                if isinstance(error, LeaseLostError) or error.code not in _MET_OTHERS:
                    raise
                log.info("%s: again after %s", old.name, error.what)
            await asyncio.sleep(min(0.5, 0.01 * (attempt + 1)))
        raise _never_level(old.name)

    async def _level_within(self, tx: Transaction, shards: list[Shard], upto: Position) -> None:
        for shard in shards:
            while shard.position < upto:
                page = await tx.events.read_all(
                    after=shard.position, limit=LEVEL, upto=upto, only=self._only
                )
                events = [Recorded(one, self._registry) for one in page.events]
                shard.held |= await self._batches.page_within(tx, shard, events, page.read_to)
                shard.position = page.read_to

    async def _page(self, shards: list[Shard], upto: Position) -> None:
        after = min(shard.position for shard in shards)
        async with self._storage.transaction() as tx:
            page = await tx.events.read_all(after=after, limit=LEVEL, upto=upto, only=self._only)
        events = [Recorded(one, self._registry) for one in page.events]
        for shard in shards:
            if shard.position < page.read_to:
                await self._batches.page(self._storage, shard, events, page.read_to)

    @property
    def _code(self) -> bytes:
        """What a shadow is told apart by: the code, and where it begins."""
        since = self._options.since
        if since == START:
            return self._definition.code_hash
        return sha256(self._definition.code_hash + str(since).encode()).digest()

    @property
    def _only(self) -> Filter:
        return Filter(types=self._definition.types)

    async def _old_position(self, old: ProjectionVersion) -> Position:
        async with self._storage.transaction() as tx:
            standing = await tx.checkpoints.positions(f"{old.name}@{old.version}/")
        return min(standing.values(), default=START)

    async def _parked(self, version: ProjectionVersion) -> int:
        async with self._storage.transaction() as tx:
            found = 0
            for number in range(version.shards):
                group = f"projection:{shard_name(version, number)}"
                found += len(await tx.parking.keys(group=group, limit=MOST_HELD))
        self._beat.parked = found
        return found

    # -- owning it -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _owned(self) -> AsyncIterator[None]:
        name = self._definition.name
        async with self._storage.transaction() as tx:
            leases = await tx.leases.acquire(
                [f"rebuild/{name}"], owner=self._owner, ttl=TTL, limit=1
            )
            standing = None if leases else await tx.projections.standing(name)
        if not leases:
            raise _busy(
                name,
                ""
                if standing is None
                else f"{standing.phase}, {standing.done:,} / {standing.total:,}",
            )
        self._lease = leases[0]
        beating = asyncio.create_task(self._beats(), name=f"rebuild:{name}:beat")
        try:
            yield
        finally:
            await end([beating])
            try:
                async with self._storage.transaction() as tx:
                    await tx.leases.release([self._lease, *self._leases])
            except StorageError as error:
                log.warning("lease rebuild/%s runs out by itself: %s", name, error)

    async def _beats(self) -> None:
        beat = self._beat
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._tell(beat)
            try:
                async with self._storage.transaction() as tx:
                    assert self._lease is not None  # noqa: S101 - taken before
                    if not await tx.leases.renew([self._lease], ttl=TTL):
                        self._lost = True
                        return
                    await self._keep(tx)
                if self._leases:  # apart: a comparison holds them locked, and so nobody takes them
                    async with self._storage.transaction() as tx:
                        await tx.leases.renew(self._leases, ttl=TTL)
            except StorageError as error:
                log.info("rebuild of %s: %s", beat.name, error)

    async def _while_owned(self, work: Awaitable[T]) -> T:
        result = await work
        if self._lost:
            raise _busy(self._definition.name, "the lease ran out while this process stood still")
        return result

    async def _say(self, phase: str, *, done: int = 0, total: int = 0) -> None:
        beat = self._beat
        beat.phase, beat.done, beat.total = phase, done, total
        self._tell(beat)
        async with self._storage.transaction() as tx:
            await self._keep(tx)

    async def _keep(self, tx: Transaction) -> None:
        beat = self._beat
        await tx.projections.progress(
            beat.name, beat.phase, done=beat.done, total=beat.total, rows=beat.rows
        )


async def roll_back(storage: Storage, name: str) -> tuple[int, int]:
    """Let the version that served before serve again, where it stands; (from, to).

    It catches up if its code runs. What the later version read is not lost: it can be switched
    to again.

    Raises:
        ProjectionError: EB6010, there is no such version.
    """
    async with storage.transaction() as tx:
        versions = await tx.projections.versions(name)
    active = next((one for one in versions if one.status == "active"), None)
    before = [one.version for one in versions if one.status == "retired"]
    if active is None or not before:
        raise _nothing(name, "no version that served before is kept")
    for attempt in range(TRIES):
        try:
            async with storage.transaction() as tx:
                await tx.projections.switch(name, to=max(before), back=True)
        except StorageError as error:
            if error.code not in _MET_OTHERS or attempt == TRIES - 1:
                raise
            await asyncio.sleep(min(0.5, 0.01 * (attempt + 1)))
        else:
            break
    return active.version, max(before)


def _busy(name: str, how_far: str) -> ProjectionError:
    return ProjectionError(
        "EB6004",
        f"projection {name!r} is already being rebuilt",
        where=f"lease rebuild/{name}" + (f", {how_far}" if how_far else ""),
        why="two rebuilds would write one shadow table; a lease that nobody renews ends in 10 s",
        next=f"eventbus projection status {name} APP --watch",
    )


def _nothing(name: str, why: str) -> ProjectionError:
    return ProjectionError(
        "EB6010",
        f"projection {name!r} has nothing to do that with",
        where="rebuild or rollback",
        why=why,
        next=f"eventbus projection status {name} APP",
    )


def _differs(name: str, difference: Difference) -> ProjectionError:
    return ProjectionError(
        "EB6011",
        f"the new version of projection {name!r} differs",
        where="verify, under --require-equal",
        why=f"{difference.differ:,} rows differ, {difference.new:,} are new,"
        f" {difference.gone:,} are gone; {difference.equal:,} are equal",
        next="what serves is untouched; without --require-equal it may be switched to",
    )


def _parked(name: str, amount: int) -> ProjectionError:
    return ProjectionError(
        "EB6012",
        f"the new version of projection {name!r} has {amount} sequences that wait",
        where="switch",
        why="events failed in it: its rows would lack them",
        next="eventbus parked list; mend the projection and rebuild, or --allow-parked",
    )


def _never_level(name: str) -> ProjectionError:
    return ProjectionError(
        "EB6013",
        f"the versions of projection {name!r} never stood at one position",
        where=f"{TRIES} tries to switch",
        why="workers of its shards stand apart as long as much is recorded, or readers held locks",
        next=f"eventbus projection pause {name} APP, then rebuild --resume, then resume it",
    )


def _truncated(name: str, cut: int) -> ProjectionError:
    return ProjectionError(
        "EB6014",
        f"projection {name!r} would be rebuilt from a log that lacks events",
        where=f"{cut} streams were truncated or tombstoned",
        why="rows that their events made would be gone or wrong",
        next="append a summary event to each of them first, or --allow-truncated",
    )
