"""Due timers of a saga: fired, deleted and acted on in one transaction."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from eventbus.errors import CommitUnknownError, StorageError
from eventbus.resilience.seldom import SeldomLog
from eventbus.saga.engine import Engine
from eventbus.saga.handover import BURIED, HANDED
from eventbus.saga.illegible import Illegible
from eventbus.saga.input import DEAD, GaveUp, TimerFired
from eventbus.saga.transition import AllOrNone, Transition, raise_if_ours, write
from eventbus.service import Alarm
from eventbus.storage import Storage, Transaction
from eventbus.storage.sagas import LOOKED_AFTER, SagaRecord

log: logging.Logger = logging.getLogger("eventbus.saga")

AT_ONCE = 100  # sagas in one transaction
AT_ONCE_WITH_SQL = 8
LONGEST_REST_SECONDS = LOOKED_AFTER.total_seconds()
TROUBLED_SECONDS = 1.0
HELD_SECONDS = 0.01  # what is due is with another worker, or was not committed yet
AGAIN = timedelta(minutes=5)  # a timer on which the author's code failed


class Timers:
    """Any number of workers: a saga that one of them holds is left alone by the others.

    Nothing is leased: firing, deletion and consequence commit together.
    """

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self.fired: int = 0  # ever: progress
        self.trouble: str | None = None
        self._lines = SeldomLog(log)
        self._engine = engine
        self._storage = storage
        self._runs = False
        self._busy = False
        self._more = False  # the last round fired some: there may be more
        self._alarm = Alarm(
            lambda at_most: storage.wait("timers", at_most=at_most),
            f"timers:{engine.family.name}",
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Fire what is due until stopping."""
        self._runs = True
        try:
            async with self._alarm.set(stopping):
                while not stopping.is_set():
                    rest = await self._turn()
                    if rest > 0:
                        await self._alarm.rest(rest)
        finally:
            self._runs = False

    async def idle(self) -> bool:
        """Whether nothing is due; if something is, go on."""
        if not self._runs:
            return True
        if self._busy:
            return False
        async with self._storage.transaction() as tx:
            due = await tx.sagas.next_due(self._engine.family.reads)
        if due is not None and due <= timedelta():
            self._alarm.ring()
            return False
        return True

    async def _turn(self) -> float:
        """One round; how many seconds to rest. While nothing is due it is one look."""
        self._busy = True
        try:
            rest = 0.0 if self._more else await self._rest()
            fired = 0 if rest > 0 else await self._fire()
            self._more = fired > 0
            self.trouble = None
            self._lines.over("timers of %s go on", self._engine.family.name)
        except StorageError as error:
            self.trouble = None if isinstance(error, CommitUnknownError) else error.what
            self._engine.tools.count_unknown(error, "timers")
            text = "timers of %s wait for the database: %s"
            self._lines.tell(error.code, text, self._engine.family.name, error)
            return TROUBLED_SECONDS
        finally:
            self._busy = False
        self.fired += fired
        return rest if rest > 0 or fired else HELD_SECONDS

    async def _fire(self) -> int:
        family = self._engine.family
        limit = AT_ONCE_WITH_SQL if family.has_local_steps else AT_ONCE
        async with self._storage.transaction() as tx:
            records = await tx.sagas.lock_due(family.reads, limit=limit)
            transitions = self._engine.transitions(records, tx)
            for one in transitions:
                await act(one, tx)
            aside = self._illegible(records, transitions, tx)
            await write(tx, transitions, self._engine.tools, aside)
        return sum(len(record.fired) for record in records)

    def _illegible(
        self, records: Sequence[SagaRecord], here: Sequence[Transition], tx: Transaction
    ) -> Sequence[Illegible]:
        """Sagas whose rows cannot be read: their timers were due, and will be again."""
        ids = {one.record.saga_id for one in here}
        aside = [self._engine.aside(one, tx) for one in records if one.saga_id not in ids]
        found = [one for one in aside if isinstance(one, Illegible)]
        for one in found:
            one.ring()
        return found

    async def _rest(self) -> float:
        async with self._storage.transaction() as tx:
            due = await tx.sagas.next_due(self._engine.family.reads)
        longest = LONGEST_REST_SECONDS
        return longest if due is None else min(longest, due.total_seconds())


async def act(one: Transition, tx: Transaction) -> None:
    """Feed its timers; one on which the author's code fails makes it stuck, and fires again."""
    for timer in one.record.fired:
        if timer.name == HANDED:
            await one.take_over()
            continue
        if timer.name.startswith(BURIED):
            await one.feed(GaveUp(timer.name.removeprefix(BURIED), DEAD))
            continue
        try:
            async with AllOrNone(tx, [one]):
                await one.feed(TimerFired(timer.name, timer.epoch))
        except Exception as error:  # the border where the author's code may fail in any way
            raise_if_ours(error)
            log.exception("timer %s of saga %s", timer.name, one.record.saga_id)
            why = f"{type(error).__name__}: {error}"
            await one.feed(GaveUp(f"timer:{timer.name}", why))
            one.course.arm(timer.name, AGAIN)
