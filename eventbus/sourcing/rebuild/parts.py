"""The parts of a scan: leased by whoever helps, marked when they are copied, split when too big."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

from eventbus.codec import Registry
from eventbus.errors import StorageError
from eventbus.service import end
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild.marks import mark_name, marked, marks_of
from eventbus.sourcing.rebuild.options import Options, Part
from eventbus.sourcing.rebuild.replay import Replay
from eventbus.sourcing.rebuild.scan import Scan
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease
from eventbus.storage.projections import Progress, ProjectionVersion, shadow_of

log: logging.Logger = logging.getLogger("eventbus.sourcing")

TTL = timedelta(seconds=10)
BEAT_SECONDS = 1.0
LOOK_SECONDS = 0.1  # whether the parts that others have are copied


@dataclass(slots=True)
class Far:
    """How far the scan is, over all processes."""

    done: int = 0  # positions read, of all parts together
    total: int = 0
    rows: int = 0
    parts: list[Part] = field(default_factory=list[Part])


def scan_of(
    storage: Storage,
    definition: Definition,
    registry: Registry,
    version: ProjectionVersion,
    *,
    encode: Encode,
    options: Options,
) -> Scan | Replay:
    """What makes the parts of a version: rows that are folded are copied, else it writes itself."""
    if definition.rows is None:
        return Replay(storage, definition, registry, version, encode=encode, options=options)
    shadow = shadow_of(definition.rows.table, version.version)
    return Scan(storage, definition, registry, version, shadow, options=options)


class Parts:
    """Takes parts that nobody has until all are copied.

    A part is the keys of a hash modulo the number of parts. One that is copied has its mark at the
    end of the scan. Whoever is killed leaves nothing of a part, or, of the general form, the pages
    up to its mark; and its lease runs out.

    Args:
        storage: entered.
        scan: reads, and copies or applies.
        tell: is told how far it is, at least each second.
    """

    def __init__(
        self, storage: Storage, scan: Scan | Replay, tell: Callable[[Far], None] = lambda _: None
    ) -> None:
        self._storage = storage
        self._scan = scan
        self._tell = tell
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._far = Far()
        self._here: dict[str, tuple[int, int]] = {}  # part in hand -> positions, rows

    async def begin(self, amount: int) -> None:
        """Make the marks, unless the scan was begun before."""
        version = self._scan.version
        async with self._storage.transaction() as tx:
            if not await tx.checkpoints.positions(marks_of(version)):
                for number in range(amount):
                    await marked(tx, self._scan.definition, mark_name(version, number, amount))

    async def work(self, *, to_the_end: bool) -> int:
        """Copy part after part; how many rows all of them have.

        Args:
            to_the_end: wait for parts that others have; False: return when none is free.

        Raises:
            ProjectionError: EB6009, an event cannot be decoded, or a row fits no column.
            StorageError: the database; what is marked stays.
        """
        while waiting := await self._open():
            lease = await self._taken(waiting)
            if lease is not None:
                await self._copy(lease)
            elif to_the_end:
                await asyncio.sleep(LOOK_SECONDS)
            else:
                break
        return self._far.rows

    async def _copy(self, lease: Lease) -> None:
        mark = lease.name
        self._here[mark] = (0, 0)

        def report(done: int, rows: int) -> None:
            self._here[mark] = (done, rows)

        try:
            async with self._kept(lease):
                await self._scan.part(lease, report)
        finally:
            del self._here[mark]

    async def _open(self) -> Sequence[str]:
        """Marks of parts that are not copied; how far all are is told."""
        version = self._scan.version
        async with self._storage.transaction() as tx:
            marks = await tx.checkpoints.positions(marks_of(version))
            found = {mark: await tx.projections.standing(mark) for mark in marks}
        far = Far(total=self._scan.upto * len(marks))
        for mark, position in marks.items():
            part = self._part(mark, position, found[mark])
            far.parts.append(part)
            far.done += part.done
            far.rows += part.rows
        self._far = far
        self._tell(far)
        return [mark for mark, position in marks.items() if position < self._scan.upto]

    def _part(self, mark: str, position: Position, standing: Progress | None) -> Part:
        """What is in hand here is known better than what its last beat said."""
        phase, done, rows = "waiting", int(position), 0
        if standing is not None:
            phase, done, rows = standing.phase, standing.done, standing.rows
        done, rows = self._here.get(mark, (done, rows))
        if position >= self._scan.upto:
            done, phase = self._scan.upto, "split" if phase == "split" else "done"
        name = mark.removeprefix(marks_of(self._scan.version))
        return Part(name=name, phase=phase, done=done, total=self._scan.upto, rows=rows)

    async def _taken(self, names: Sequence[str]) -> Lease | None:
        async with self._storage.transaction() as tx:
            leases = await tx.leases.acquire(names, owner=self._owner, ttl=TTL, limit=1)
        return leases[0] if leases else None

    @asynccontextmanager
    async def _kept(self, lease: Lease) -> AsyncIterator[None]:
        beating = asyncio.create_task(self._beats(lease), name=f"rebuild:{lease.name}:beat")
        try:
            yield
        finally:
            await end([beating])
            try:
                async with self._storage.transaction() as tx:
                    await tx.leases.release([lease])
            except StorageError as error:
                log.warning("lease %s runs out by itself: %s", lease.name, error)

    async def _beats(self, lease: Lease) -> None:
        """A lease that is lost is not renewed: then the mark cannot be saved."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._keep(lease)
                await self._open()
            except StorageError as error:
                log.info("part %s: %s", lease.name, error)

    async def _keep(self, lease: Lease) -> None:
        done, rows = self._here[lease.name]
        async with self._storage.transaction() as tx:
            await tx.leases.renew([lease], ttl=TTL)
            await tx.projections.progress(
                lease.name, "replay", done=done, total=self._scan.upto, rows=rows
            )
