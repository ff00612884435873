"""A projection that follows the log: pages, checkpoints, parked sequences, leased shards."""

import asyncio
import logging
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Any

from eventbus.codec import Registry
from eventbus.errors import CommitUnknownError, EventBusError, LeaseLostError, StorageError
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.resilience.seldom import SeldomLog
from eventbus.service import end
from eventbus.sourcing.arrivals import Arrivals
from eventbus.sourcing.batch import Batches
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.holdings import Holdings, is_active
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.redelivery import Redelivery
from eventbus.sourcing.shard import table_of_version
from eventbus.sourcing.tail import Tail
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage
from eventbus.storage.events import FeedPage, Filter, Position
from eventbus.storage.projections import ProjectionVersion

_Page = tuple[FeedPage, list[Recorded]]

log: logging.Logger = logging.getLogger("eventbus.sourcing")

PAGE = 2000  # events
AT_ONCE = 200  # of them are decoded before others have a turn: some 2 ms
REST_SECONDS = 0.25
TROUBLED_SECONDS = 2.0
_REFUSED = frozenset({"EB5202", "EB6003"})
PARKED_SECONDS = 0.5  # between two looks for what is due


class Following:
    """Holds leases `projection/<name>@<version>/<shard>`; writes exactly once what is recorded.

    Args:
        definition: the projection.
        storage: entered with the bus.
        registry: decodes what is recorded.
        encode: an event as the message that is published.
        tail: says that the log grew; of the process.
        arrivals: is told how far the rows are.
        random: jitter of the waits of parked sequences.
        instrumentation: is told of commits without an answer.
    """

    def __init__(
        self,
        definition: Definition,
        storage: Storage,
        registry: Registry,
        *,
        encode: Encode,
        tail: Tail,
        arrivals: Arrivals,
        random: Random,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.definition: Definition = definition
        self.projected: int = 0  # events in pages that were written, ever: progress
        self.trouble: str | None = None
        self._storage = storage
        self._registry = registry
        self._tail = tail
        self._arrivals = arrivals
        self._instrumentation = instrumentation
        self._batches = Batches(definition, encode, random)
        self._redelivery = Redelivery(self._batches, registry, storage)
        self._holdings = Holdings(storage, definition)
        self._only = Filter(types=definition.types)
        self._version: ProjectionVersion | None = None
        self._coming: tuple[Position, asyncio.Task[_Page]] | None = None
        self._server: datetime | None = None
        self._runs = False
        self._lines = SeldomLog(log)
        self._refused = False  # until an operator, or other code, puts it right
        self._busy = False
        self._look_at = 0.0  # when to look for parked sequences that are due

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until stopping; then end the page that is being written, release the leases."""
        self._runs = True
        try:
            async with self._tail.followed():
                while not stopping.is_set():
                    if not await self._turn():
                        await self._rest(stopping)
        finally:
            self._runs = False
            await self._forget_coming()
            await self._give_back()

    @property
    def state(self) -> str:
        """For health."""
        if self._holdings.paused:
            return "paused"
        if self.trouble is not None:
            return self.trouble
        held = [shard.number for shard in self._holdings.shards]
        return "running" if held else "standby"

    @property
    def is_paused(self) -> bool:
        """Whether an operator keeps it from writing."""
        return self._holdings.paused

    async def idle(self) -> bool:
        """Whether everything recorded is written, and nothing parked is due."""
        if not self._runs:
            return True
        if self._refused:
            return True
        if self._busy or self._version is None or not self._holdings.sure:
            return False
        version, shards = self._version, self._holdings.shards
        if self._holdings.paused:
            return True
        async with self._storage.transaction() as tx:
            if not await is_active(tx, version):
                self._holdings.doubt()
                return False
            if not shards and await self._holdings.are_all_taken(tx, version):
                return True  # others follow
        if not shards:
            self._holdings.doubt()
            return False
        bound = (await self._storage.read_bound()).bound
        if self._holdings.shards is not shards:  # meanwhile: perhaps those of another version
            return False
        if min(shard.position for shard in shards) < bound:
            return False
        for shard in shards:
            if shard.held and await self._redelivery.due(shard):
                self._look_at = 0.0
                return False
        return True

    async def _turn(self) -> int:
        """One page, and what is due; how much moved."""
        self._busy = True
        try:
            if self._version is None:
                self._version = await self._prepared()
            if not await self._holdings.hold(self._version):
                log.info("projection %s: another version is active", self.definition.name)
                await self._begin_anew()
                return 1
            if self._holdings.paused or not self._holdings.shards:
                self.trouble = None
                return 0
            moved = await self._parked() + await self._page()
        except LeaseLostError as error:
            log.info("projection %s looks again: %s", self.definition.name, error.what)
            await self._begin_anew()
            return 1
        except StorageError as error:
            count_unknown(self._instrumentation, error, "projection", "repeated")
            await self._begin_anew()
            self._refused = error.code in _REFUSED
            self.trouble = f"{error.what}: {error.why}" if self._refused else error.what
            if isinstance(error, CommitUnknownError):
                self.trouble = None
            self._lines.tell(error.code, "projection %s waits: %s", self.definition.name, error)
            return 0
        else:
            self.trouble, self._refused = None, False
            self._lines.over("projection %s goes on", self.definition.name)
            return moved
        finally:
            self._busy = False

    async def _prepared(self) -> ProjectionVersion:
        """The active version; the first one is made, with its effects from now on."""
        definition = self.definition
        head = (await self._storage.read_bound()).head
        first = ProjectionVersion(
            name=definition.name,
            version=1,
            status="active",
            code_hash=definition.code_hash,
            shards=definition.shards,
            built_to=None,
            publishes_after=head,
            tables=definition.tables,
        )
        async with self._storage.transaction() as tx:
            versions = await tx.projections.versions(definition.name)
            active = [one for one in versions if one.status == "active"]
            if active:
                return active[0]
            await tx.projections.create(first, table_of_version(definition, first))
        return first

    async def _page(self) -> int:
        """The next page, for all shards; the one after it is read meanwhile."""
        shards = self._holdings.shards
        after = min(shard.position for shard in shards)
        page, events = await self._next(after)
        if page.bound < after:
            await self._refuse_ahead(after)
        if page.read_to <= after:
            return 0
        if len(events) == PAGE and self._storage.capabilities.concurrent:
            coming = asyncio.create_task(self._read(page.read_to), name=f"read:{page.read_to}")
            self._coming = page.read_to, coming
        for shard in shards:
            if shard.position < page.read_to:
                await self._batches.page(self._storage, shard, events, page.read_to)
        if len(shards) == shards[0].version.shards:
            self._arrivals.tell(self.definition.name, page.read_to)
        self.projected += len(events)
        return max(1, len(events))

    async def _parked(self) -> int:
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return 0
        self._look_at = now + PARKED_SECONDS
        moved = 0
        for shard in self._holdings.shards:
            for key in await self._redelivery.due(shard) if shard.held else ():
                moved += await self._redelivery.run(shard, key)
        if moved:
            self._look_at = 0.0
        return moved

    async def _next(self, after: Position) -> _Page:
        coming, self._coming = self._coming, None
        if coming is not None:
            if coming[0] == after:
                return await coming[1]
            await end([coming[1]])
        return await self._read(after)

    async def _read(self, after: Position) -> _Page:
        """A page, decoded: while the database still writes the one before it."""
        async with self._storage.transaction() as tx:
            page = await tx.events.read_all(after=after, limit=PAGE, only=self._only)
            events = await read(page.events, self._registry, tx)
        for number, recorded in enumerate(events):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # a whole page would hold up everybody else
            with suppress(EventBusError):  # told again where it is asked for, and parked there
                recorded.event  # noqa: B018 - it is kept
        return page, events

    async def _rest(self, stopping: asyncio.Event) -> None:
        """Until the log grows, the stop, or a while."""
        shards = self._holdings.shards
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(stopping.wait(), name=f"projection:{self.definition.name}:stop")
        ]
        seconds = TROUBLED_SECONDS if self.trouble else REST_SECONDS
        if shards and not self._holdings.paused and self.trouble is None:
            after = min(shard.position for shard in shards)
            waits.append(
                asyncio.create_task(
                    self._grown(after), name=f"projection:{self.definition.name}:tail"
                )
            )
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(waits)

    async def _grown(self, after: Position) -> None:
        found = await self._tail.beyond(after, self._server)
        self._server = None if found is None else found.server_started

    async def _refuse_ahead(self, after: Position) -> None:
        """A position that the log has never had: it was restored without its checkpoints."""
        head = (await self._storage.read_bound()).head
        if after > head:
            raise StorageError(
                "EB5202",
                f"projection {self.definition.name!r} stands at {after}, ahead of the log",
                where=f"checkpoints {self.definition.name}@…",
                why=f"the log ends at {head}: it was restored from another backup than they were",
                next=f"eventbus projection rebuild {self.definition.name} APP",
            )

    async def _begin_anew(self) -> None:
        await self._forget_coming()
        self._holdings.doubt()
        self._version = None

    async def _forget_coming(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            await end([coming[1]])

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._holdings.give_back()
        except (TimeoutError, StorageError) as error:
            log.warning("leases of %s run out by themselves: %r", self.definition.name, error)
