"""What is parked of one key, in order: the tried one alone, what only queued as a batch."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from eventbus.handler import Group
from eventbus.message import Message
from eventbus.pubsub.call import Call, Calls
from eventbus.pubsub.unit_of_work import Holding, held
from eventbus.pubsub.verdict import Verdicts
from eventbus.pubsub.watchdog import Run, Watchdog
from eventbus.storage import Storage, Transaction
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Parked

MOST = 100


class ParkedKeys:
    """Runs parked messages of a key, up to the first that fails."""

    def __init__(self, calls: Calls, verdicts: Verdicts, storage: Storage) -> None:
        self.group: Group = calls.group
        self.watchdog: Watchdog = verdicts.attempts.watchdog
        self._calls = calls
        self._verdicts = verdicts
        self._storage = storage

    async def run(
        self,
        lease: Lease,
        key: str,
        parked: Sequence[Parked],
        run: Run,
        *,
        alone: bool = False,
        closing: bool = False,
    ) -> int:
        """How many are done and gone.

        The attempts of those given are counted and committed before any of them starts. Not
        `alone`, what waits behind them runs too; `closing` locks the key, and frees it once empty.

        Raises:
            LeaseLostError: somebody else owns the group's parking now; nothing is kept.
            StorageError: nothing is kept.
        """
        holding = Holding()
        token = held.set(holding)
        try:
            with self._verdicts.running_again("redelivery"):
                attempts = await self._count(parked)
                if not self.group.transactional:
                    return await self._outside(lease, parked, attempts, run)
                async with run.within(self._storage) as tx:
                    waiting: Sequence[Parked] | None = parked
                    if not alone:
                        waiting = await tx.parking.behind(
                            lease, key, group=self.group.name, limit=MOST, closing=closing
                        )
                    done, outcomes = await self._in_order(lease, waiting or (), attempts, tx, run)
            self._verdicts.redriven(outcomes)
            return done
        finally:
            holding.open = False
            held.reset(token)
            self._verdicts.report()

    async def give_up(
        self,
        lease: Lease,
        key: str,
        counted: Sequence[Parked],
        error: Exception,
        message: Message | None = None,
    ) -> None:
        """Park again, by the policy of the group, what a handler or a commit did not end with.

        Args:
            lease: of the group's parking.
            key: whose turn it was.
            counted: whose attempts were counted before they started.
            error: what it failed with.
            message: which one it was, if that is known; else the first of the key.
        """
        attempts = {one.message.identity: one.attempts + 1 for one in counted}
        who = None if message is None else message.identity
        outcomes: list[str] = []
        async with self._storage.transaction() as tx:
            waiting = await tx.parking.behind(lease, key, group=self.group.name, limit=MOST)
            guilty = [one for one in waiting or () if who in {None, one.message.identity}]
            if guilty:
                call = self._call(guilty[0], attempts)
                failed = self._verdicts.parked(call, error)
                await self._verdicts.buried(call, failed, tx)
                await self._park_again(call, failed, lease, tx)
                outcomes.append(_outcome(guilty[0], failed))
        self._verdicts.redriven(outcomes)

    async def uncount(self, one: Parked) -> None:
        """Its last attempt was none."""
        async with self._storage.transaction() as tx:
            await tx.inbox.uncount([one.message], group=self.group.name)

    async def _count(self, parked: Sequence[Parked]) -> Mapping[UUID, int]:
        if not parked:
            return {}
        messages = [one.message for one in parked]
        async with self._storage.transaction() as tx:
            return await tx.inbox.count(messages, group=self.group.name)

    async def _in_order(
        self,
        lease: Lease,
        waiting: Sequence[Parked],
        attempts: Mapping[UUID, int],
        tx: Transaction,
        run: Run,
    ) -> tuple[int, Sequence[str]]:
        """How many are done and gone; what became of each that ran."""
        done: list[Parked] = []
        outcomes: list[str] = []
        for one in waiting:
            call = self._call(one, attempts)
            failed = await self._attempt(one, call, tx, run)
            outcomes.append(_outcome(one, failed))
            if failed is not None:
                await self._verdicts.buried(call, failed, tx)
                await self._park_again(call, failed, lease, tx)
                break
            done.append(one)
        await tx.parking.settle(lease, done, group=self.group.name)
        return len(done), outcomes

    async def _park_again(self, call: Call, failed: Parked, lease: Lease, tx: Transaction) -> None:
        await tx.parking.park([failed], group=self.group.name, lease=lease)
        if failed.attempts < call.attempt:  # it was counted before it began
            await tx.inbox.uncount([call.message], group=self.group.name)

    async def _attempt(self, one: Parked, call: Call, tx: Transaction, run: Run) -> Parked | None:
        wish = one.failure
        if wish is not None and wish.reason == "buried":
            return self._verdicts.as_wished(call, one, wish.code)
        if wish is not None and wish.reason == "discarded":
            await self._verdicts.discarded(call, tx)
            return None
        if call.attempt > self._verdicts.last_attempt:
            return self._verdicts.killed(call)
        return await self._verdicts.attempt(call, tx, run)

    async def _outside(
        self, lease: Lease, parked: Sequence[Parked], attempts: Mapping[UUID, int], run: Run
    ) -> int:
        for done, one in enumerate(parked):
            call = self._call(one, attempts)
            context = self._verdicts.context(call, None)
            if call.attempt > self._verdicts.last_attempt:
                failed: Parked | None = self._verdicts.killed(call)
            else:
                failed = await self._verdicts.attempt_outside(call, context, run)
            async with self._storage.transaction() as tx:
                await self._verdicts.record_outside(context, failed, tx)
                if failed is not None:
                    await self._park_again(call, failed, lease, tx)
                else:
                    await tx.parking.settle(lease, [one], group=self.group.name)
            self._verdicts.redriven([_outcome(one, failed)])
            if failed is not None:
                return done
        return len(parked)

    def _call(self, parked: Parked, attempts: Mapping[UUID, int]) -> Call:
        attempt = attempts.get(parked.message.identity, parked.attempts + 1)
        return self._calls.parked(parked, attempt)


def _outcome(one: Parked, failed: Parked | None) -> str:
    """In the words of `handled_total`; or what an operator wished."""
    if failed is None:
        dropped = one.failure is not None and one.failure.reason == "discarded"
        return "discarded" if dropped else "done"
    if failed.delay is not None:
        return "parked"
    quarantined = failed.failure is not None and failed.failure.reason == "quarantined"
    return "quarantined" if quarantined else "dead"
