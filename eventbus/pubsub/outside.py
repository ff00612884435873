"""`transactional=False`: no transaction is open while handlers run, keys run at once."""

import asyncio
from collections.abc import Sequence
from functools import partial

from eventbus.errors import StorageError
from eventbus.handler import Group
from eventbus.pubsub.call import Call, behind
from eventbus.pubsub.unit_of_work import HandlerContext
from eventbus.pubsub.verdict import Verdicts
from eventbus.pubsub.watchdog import AbandonedError, Run
from eventbus.storage import Storage
from eventbus.storage.parking import Parked


class Outside:
    """Looks before, runs, records after: at least once, with a stable idempotency key."""

    def __init__(self, verdicts: Verdicts, storage: Storage) -> None:
        self.group: Group = verdicts.group
        self._verdicts = verdicts
        self._storage = storage

    async def run(self, calls: Sequence[Call]) -> int:
        """Handle a lane's batch; all of it has its verdict."""
        ours = [call for call in calls if call.ours]
        async with self._storage.transaction() as tx:
            found = await tx.inbox.look(
                [call.message for call in ours],
                keys=[call.key for call in ours],
                group=self.group.name,
            )
            await self._verdicts.attempts.read_keys([call.message for call in ours], tx)
        new = set(found.new)
        chains: dict[str, list[Call]] = {}
        for call in ours:
            if call.identity in new:
                new.discard(call.identity)
                chains.setdefault(call.key, []).append(call)
        try:
            async with asyncio.TaskGroup() as tasks:
                for key, chain in chains.items():
                    work = self._minded(chain, is_held=key in found.held)
                    tasks.create_task(work, name=f"consumer:{self.group.name}")
        except* StorageError as errors:  # our database is away: the lane keeps the batch
            raise errors.exceptions[0] from None
        return len(calls)

    async def _minded(self, calls: Sequence[Call], *, is_held: bool) -> None:
        """The messages of one key; one whose handler does not end has failed, the rest goes on."""
        mind = self._verdicts.attempts.watchdog.mind
        blamed: Exception | None = None
        while calls:
            try:
                chain = partial(self._chain, calls, is_held, blamed)
                await mind(chain, f"consumer:{self.group.name}")
            except AbandonedError as left:
                blamed = left.error
                calls = calls[_place_of(left, calls) :]
            else:
                return

    async def _chain(
        self, calls: Sequence[Call], is_held: bool, blamed: Exception | None, run: Run
    ) -> None:
        """In order; after a failure the rest queues behind it."""
        for call in calls:
            context = self._verdicts.context(call, None)
            if blamed is not None:
                parked: Parked | None = self._verdicts.parked(call, blamed)
                blamed = None
            elif is_held:
                parked = behind(call)
            else:
                parked = await self._verdicts.attempt_outside(call, context, run)
            is_held = is_held or (parked is not None and self.group.order == "key")
            await self._record(call, context, parked)

    async def _record(self, call: Call, context: HandlerContext, parked: Parked | None) -> None:
        """Inbox row and what was published, together; a run that was not the first adds nothing."""
        async with self._storage.transaction() as tx:
            received = await tx.inbox.receive(
                [call.message], keys=[call.key], group=self.group.name
            )
            if call.identity not in received.new:
                self._verdicts.count(call, "duplicate")
                return
            await self._verdicts.record_outside(context, parked, tx)
            if parked is not None:
                await tx.parking.park([parked], group=self.group.name)


def _place_of(left: AbandonedError, calls: Sequence[Call]) -> int:
    return next(place for place, call in enumerate(calls) if call.message is left.message)
