"""One lane's batch, from bytes to verdicts, in one transaction (B6). Read `run` first."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from time import perf_counter

from eventbus.handler import Group
from eventbus.instrumentation import Instrumentation
from eventbus.pubsub.batch import Batch, at_once, neighbours, to_come
from eventbus.pubsub.call import Call, Calls, behind
from eventbus.pubsub.effects import Effects
from eventbus.pubsub.outside import Outside
from eventbus.pubsub.savepoints import Savepoints
from eventbus.pubsub.unit_of_work import Holding, held
from eventbus.pubsub.verdict import OneOfThemError, Verdicts, one_of_them, raise_if_not_its_own
from eventbus.pubsub.watchdog import Run
from eventbus.storage import Storage, Transaction
from eventbus.storage.parking import Parked
from eventbus.transport import Delivery


class Dispatcher:
    """The handlers of a group over a storage: recorded, run, parked and committed together."""

    def __init__(
        self,
        calls: Calls,
        verdicts: Verdicts,
        storage: Storage,
        suspects: asyncio.Lock,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.group: Group = calls.group
        self._calls = calls
        self._verdicts = verdicts
        self._storage = storage
        self._suspects = suspects
        self._outside = Outside(verdicts, storage)
        self._savepoints = Savepoints(storage.capabilities)
        self._instrumentation = instrumentation

    async def run(self, batch: Sequence[Delivery], run: Run, stop: asyncio.Event) -> int:
        """Handle a lane's batch; how many deliveries, from the first, now have their verdict.

        They may be acknowledged: their effects, or their places in the parking, are committed.

        Raises:
            StorageError: nothing of the batch is kept; run it again later.
            CommitUnknownError: perhaps all of it is kept; run it again, the inbox knows.
        """
        calls = [self._calls.delivered(delivery) for delivery in batch]
        if not any(call.ours for call in calls):
            return len(batch)
        holding = Holding()
        token = held.set(holding)
        try:
            began = perf_counter()
            with self._verdicts.running_again("batch"):
                if batch[0].redelivered:
                    return await self._one_by_one(calls, run, stop)
                done = await self._handle(calls, run, stop)
            if self._instrumentation is not None and calls[0].route.batches is not None:
                seconds = perf_counter() - began  # of the batch: its transitions commit together
                self._instrumentation.observe(
                    "saga_transition_duration_seconds", seconds, saga=self.group.name
                )
            return done
        finally:
            holding.open = False
            held.reset(token)
            self._report(len(calls))

    async def _handle(self, calls: Sequence[Call], run: Run, stop: asyncio.Event) -> int:
        if run.blamed is not None and len(calls) == 1:
            return await self._give_up(calls[0], run.blamed)
        if not self.group.transactional:
            return await self._outside.run(calls)
        if not self._savepoints.needed(calls):
            done = await self._without_savepoints(calls, run, stop)
            if done is not None:
                return done
        try:
            return await self._in_transaction(calls, run, stop)
        except OneOfThemError as error:  # nothing of the batch is kept
            if len(calls) == 1:
                return await self._give_up(calls[0], error.cause)
        for done, call in enumerate(calls):
            if call.lost or (done and stop.is_set()):
                return done
            if call.ours and await self._handle([call], run, stop) == 0:
                return done
        return len(calls)

    async def _without_savepoints(
        self, calls: Sequence[Call], run: Run, stop: asyncio.Event
    ) -> int | None:
        """None: one of them failed, nothing of the batch is kept; savepoints tell which."""
        try:
            with self._savepoints.spared():
                return await self._in_transaction(calls, run, stop, bare=True)
        except OneOfThemError:
            return None

    async def _in_transaction(
        self, calls: Sequence[Call], run: Run, stop: asyncio.Event, *, bare: bool = False
    ) -> int:
        ours = [call for call in calls if call.ours]
        async with run.within(self._storage) as tx:
            batch = await self._receive(ours, tx)
            batch.bare = bare
            await self._verdicts.attempts.read_keys([call.message for call in ours], tx)
            started = await self._each(calls, batch, tx, run, stop)
            await batch.effects.finish()
            await self._forget(calls[started:], batch, tx)
            if batch.parked:
                await tx.parking.park(batch.parked, group=self.group.name)
        for call, outcome in batch.outcomes:
            self._verdicts.count(call, outcome)
        return started

    async def _receive(self, ours: Sequence[Call], tx: Transaction) -> Batch:
        received = await tx.inbox.receive(
            [call.message for call in ours],
            keys=[call.key for call in ours],
            group=self.group.name,
        )
        effects = Effects(self._verdicts.attempts.participant, tx)
        return Batch(set(received.new), set(received.held), effects)

    async def _each(
        self, calls: Sequence[Call], batch: Batch, tx: Transaction, run: Run, stop: asyncio.Event
    ) -> int:
        """Run what may run, in order; how many have their verdict."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.group.batch_time.total_seconds()
        started = 0
        while started < len(calls):
            call = calls[started]
            enough = stop.is_set() or loop.time() >= until or self._verdicts.pauses
            if call.lost or (started and enough):
                break
            if not self._may_run(call, batch):
                started += 1
                continue
            if batch.bare:
                await self._bare(call, batch, tx, run)
                started += 1
                continue
            if call.route.batches is not None and call.wrong is None:
                started += await self._batch(calls, started, batch, tx, run)
                continue
            together = neighbours(calls, started, batch)
            if len(together) > 1 and await self._sequence(together, tx, run):
                batch.new.difference_update(one.identity for one in together)
                started += len(together)
                continue
            effect = await batch.effects.of(call, partial(to_come, calls, started, batch))
            batch.new.discard(call.identity)
            parked = await self._verdicts.attempt(call, tx, run, effect)
            batch.effects.ended(effect, failed=parked is not None)
            if parked is not None:
                await self._verdicts.buried(call, parked, tx)
                batch.parked.append(parked)
                if self.group.order == "key":
                    batch.held.add(call.key)
            started += 1
        return started

    def _may_run(self, call: Call, batch: Batch) -> bool:
        """Not ours, done before, or behind a parked message of its key: no."""
        if not call.ours:
            return False
        if call.identity not in batch.new:
            batch.outcomes.append((call, "duplicate"))
            return False
        if call.key in batch.held:
            batch.new.discard(call.identity)
            batch.parked.append(behind(call))
            return False
        return True

    async def _bare(self, call: Call, batch: Batch, tx: Transaction, run: Run) -> None:
        with one_of_them():
            await self._verdicts.attempt_bare(call, tx, run)
        batch.new.discard(call.identity)
        batch.outcomes.append((call, "done"))

    async def _forget(self, rest: Sequence[Call], batch: Batch, tx: Transaction) -> None:
        """An id that stays in the inbox without its effect is a lost message."""
        not_run = [call.message for call in rest if call.ours and call.identity in batch.new]
        if not_run:
            await tx.inbox.forget(not_run, group=self.group.name)

    async def _sequence(self, calls: Sequence[Call], tx: Transaction, run: Run) -> bool:
        """All of them in one savepoint; if it fails, one by one finds the guilty one."""
        context = self._verdicts.context(calls[-1], tx)
        handler = calls[0].route.handlers[0]
        try:
            whats = [await self._verdicts.decoded(call, tx) for call in calls]
            run.message = None
            async with tx.savepoint():
                await self._verdicts.attempts.call(handler, whats, context, run)
        except Exception as error:  # the border where the user's code may fail in any way
            raise_if_not_its_own(error)
            return False
        finally:
            context.open = False
        for call in calls:
            self._verdicts.count(call, "done")
        return True

    async def _batch(
        self,
        calls: Sequence[Call],
        first: int,
        batch: Batch,
        tx: Transaction,
        run: Run,
    ) -> int:
        """What a batch handler takes in one call: neighbours with different keys; how many.

        Raises:
            OneOfThemError: one of them failed it, nothing says which.
        """
        together = at_once(calls, first, batch)
        batch.new.difference_update(one.identity for one in together)
        with one_of_them():
            verdicts = await self._verdicts.attempt_batch(together, tx, run)
        for call, parked in zip(together, verdicts, strict=True):
            if parked is not None:
                await self._verdicts.buried(call, parked, tx)
                batch.parked.append(parked)
                if self.group.order == "key":
                    batch.held.add(call.key)
        return len(together)

    async def _one_by_one(self, calls: Sequence[Call], run: Run, stop: asyncio.Event) -> int:
        """Redelivered ones, each alone, its attempt committed before it starts (B7).

        So one that kills its process is found out. Those that were counted before run one at a
        time in the whole process, and are counted when their turn has come: or what waits beside
        a killer would be taken for one.
        """
        messages = [call.message for call in calls]
        async with self._storage.transaction() as tx:
            found = await tx.inbox.look(
                messages, keys=[call.key for call in calls], group=self.group.name
            )
            counted = await tx.inbox.attempts(messages, group=self.group.name)
        new = set(found.new)
        for started, call in enumerate(calls):
            if call.lost or (started and stop.is_set()):
                return started
            if call.identity not in new or not call.ours:
                continue
            new.discard(call.identity)  # a second copy behind it is a duplicate
            suspect = run.taking(self._suspects) if call.identity in counted else nullcontext()
            async with suspect:
                if call.key not in found.held and not await self._count(call):
                    await self._bury(call)
                elif await self._handle([call], run, stop) == 0:
                    return started
        return len(calls)

    async def _count(self, call: Call) -> bool:
        """Count the attempt, in a transaction of its own; False: none is left."""
        async with self._storage.transaction() as tx:
            counts = await tx.inbox.count([call.message], group=self.group.name)
        last = self._verdicts.last_attempt
        call.attempt = min(counts[call.identity], last + 1)  # to bury it again is no attempt
        return call.attempt <= last

    async def _give_up(self, call: Call, error: Exception) -> int:
        """Park what never got through, without another start."""
        await self._park(call, self._verdicts.parked(call, error))
        return 1

    async def _bury(self, call: Call) -> None:
        await self._park(call, self._verdicts.killed(call))

    async def _park(self, call: Call, parked: Parked) -> None:
        async with self._storage.transaction() as tx:
            batch = await self._receive([call], tx)
            if call.identity in batch.new:
                await self._verdicts.buried(call, parked, tx)
                await tx.parking.park([parked], group=self.group.name)

    def _report(self, messages: int) -> None:
        self._verdicts.report()
        if self._instrumentation is not None:
            self._instrumentation.observe("batch_messages", float(messages), group=self.group.name)
