"""Parked sequences of a shard, again: in their order, by the shard's owner alone."""

from collections.abc import Sequence
from dataclasses import replace

from eventbus.codec import Registry
from eventbus.sourcing.batch import Batches
from eventbus.sourcing.parking import log_failures
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.shard import MOST_HELD, Shard
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Position
from eventbus.storage.parking import Parked

KEYS, EVENTS = 100, 200  # at once; of a key at once


class ForgottenEventError(Exception):
    """A parked event is not in the log any more: its stream was truncated, or tombstoned."""


class Redelivery:
    """Runs what is due; what fails again is parked again, and the keys behind it go on waiting."""

    def __init__(self, batches: Batches, registry: Registry, storage: Storage) -> None:
        self._batches = batches
        self._registry = registry
        self._storage = storage

    async def due(self, shard: Shard) -> Sequence[str]:
        """Keys whose first event is due; afterwards the shard knows which keys are held."""
        async with self._storage.transaction() as tx:
            found = await tx.parking.due(shard.lease, group=shard.group, limit=KEYS)
            held = await tx.parking.keys(group=shard.group, limit=MOST_HELD)
        shard.held = set(held)
        return list(dict.fromkeys(one.key for one in found))

    async def run(self, shard: Shard, key: str) -> int:
        """Events of a key until one fails, in one transaction; how many got a verdict.

        Raises:
            LeaseLostError: somebody else has the shard: nothing was written.
        """
        async with self._storage.transaction() as tx:
            waiting = await tx.parking.behind(
                shard.lease, key, group=shard.group, limit=EVENTS, closing=True
            )
            if waiting is None:
                return 0
            await tx.checkpoints.save(
                shard.name, shard.position, after=shard.position, lease=shard.lease
            )
            found, missing = await self._found(tx, waiting)
            if key.startswith("stream:"):
                done, failed, parked = await self._stream(tx, shard, key, found)
            else:
                done, failed = await self._row(tx, shard, key, found)
                parked = []
            if failed is None and missing is not None:
                failed = self._batches.sequences.again(waiting[done], missing)
            await tx.parking.settle(shard.lease, waiting[:done], group=shard.group)
            if failed is not None:
                await tx.parking.park([failed], group=shard.group, lease=shard.lease)
            await tx.parking.park(parked, group=shard.group)
        log_failures(shard.group, [*parked, *([] if failed is None else [failed])])
        shard.held.update(one.key for one in parked)
        if done == len(waiting) and len(waiting) < EVENTS:
            shard.held.discard(key)
        return done + (failed is not None)

    async def _row(
        self, tx: Transaction, shard: Shard, key: str, found: Sequence[tuple[Parked, Recorded]]
    ) -> tuple[int, Parked | None]:
        done, error = await self._batches.again(tx, shard, key, found)
        if error is None:
            return done, None
        parked, recorded = found[done]
        return done, self._batches.sequences.again(parked, error, recorded)

    async def _stream(
        self, tx: Transaction, shard: Shard, key: str, found: Sequence[tuple[Parked, Recorded]]
    ) -> tuple[int, Parked | None, list[Parked]]:
        """Events of which nobody knew the rows, one by one: perhaps they can be decoded now."""
        held, rows = shard.held - {key}, list[Parked]()
        for done, (parked, recorded) in enumerate(found):
            left = await self._batches.write(
                tx, shard, [recorded], held=held, attempt=parked.attempts + 1
            )
            for one in left:
                if one.key == key:
                    return done, replace(one, message=parked.message), rows
            held.update(one.key for one in left)
            rows += left
        return len(found), None, rows

    async def _found(
        self, tx: Transaction, waiting: Sequence[Parked]
    ) -> tuple[list[tuple[Parked, Recorded]], Exception | None]:
        """The events in the log, up to the first that is not there."""
        found: list[tuple[Parked, Recorded]] = []
        for parked in waiting:
            assert parked.position is not None  # noqa: S101 - parked by a shard
            before = Position(parked.position - 1)
            page = await tx.events.read_all(after=before, limit=1, upto=parked.position)
            if not page.events:
                return found, ForgottenEventError(f"position {parked.position} is not in the log")
            (recorded,) = await read(page.events, self._registry, tx)
            found.append((parked, recorded))
        return found, None
