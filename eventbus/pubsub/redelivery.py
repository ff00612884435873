"""Parked messages back through the same dispatcher, in order per key; the closing round (B7)."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from random import random
from uuid import uuid4

from eventbus.errors import CommitUnknownError, LeaseLostError, StorageError
from eventbus.handler import Group
from eventbus.pubsub.gate import Gate
from eventbus.pubsub.lanes import CONFLICTS, is_suspicious
from eventbus.pubsub.parked_key import ParkedKeys
from eventbus.pubsub.verdict import MET_ANOTHER
from eventbus.pubsub.watchdog import AbandonedError, Run
from eventbus.resilience.seldom import SeldomLog
from eventbus.service import Alarm
from eventbus.storage import Storage
from eventbus.storage.leases import Lease
from eventbus.storage.parking import Crowd, Parked

log: logging.Logger = logging.getLogger("eventbus.pubsub")

TTL = timedelta(seconds=10)
MOST_BEHIND_KEY, MOST_IN_GROUP = 10_000, 1_000_000  # parked messages: above, the group pauses
CLOSING_BELOW = 20  # a key with fewer than so many behind it, none tried, may leave
GIVE_BACK_SECONDS = 2.0  # less than a supervisor waits for what it cancelled
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.05, 1.0


def is_crowded(crowd: Crowd, before: bool) -> bool:
    """Never drop, never acknowledge away: stop taking, and go on below half of the limits."""
    share = 2 if before else 1
    return crowd.behind_key >= MOST_BEHIND_KEY // share or crowd.messages >= MOST_IN_GROUP // share


class Redelivery:
    """Holds lease `parked/<group>`; runs keys that are due at once, each key in order."""

    def __init__(self, parked_keys: ParkedKeys, storage: Storage, gate: Gate) -> None:
        self.group: Group = parked_keys.group
        self.redelivered: int = 0  # messages settled, ever: progress
        self.trouble: str | None = None
        self._parked_keys = parked_keys
        self._storage = storage
        self._gate = gate
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._lease: Lease | None = None
        self._renew_at = 0.0
        self._alarm = Alarm(
            lambda at_most: storage.wait("parked", at_most=at_most),
            f"redelivery:{self.group.name}",
        )
        self._busy = False
        self._lines = SeldomLog(log)

    async def run(self, stopping: asyncio.Event) -> None:
        """Redeliver until stopping; then end the messages that run and release the lease."""
        idle = SHORTEST_POLL_SECONDS
        try:
            async with self._alarm.set(stopping):
                while not stopping.is_set():
                    moved = await self._turn()
                    idle = SHORTEST_POLL_SECONDS if moved else min(LONGEST_POLL_SECONDS, idle * 2)
                    if not moved:
                        await self._alarm.rest(idle)
        finally:
            await self._give_back()

    async def idle(self) -> bool:
        """Whether nothing is due; if something is, go on."""
        if self._busy:
            return False
        if self._lease is None or self._gate.paused_by_operator:
            return True
        async with self._storage.transaction() as tx:
            due = await tx.parking.due(self._lease, group=self.group.name, limit=1)
        if due:
            self._alarm.ring()
        return not due

    async def _turn(self) -> int:
        """One round; how many messages were settled or parked again."""
        self._busy = True
        try:
            await self._hold_lease()
            if self._lease is None or self._gate.is_shut:
                return 0
            async with self._storage.transaction() as tx:
                due = await tx.parking.due(self._lease, group=self.group.name, limit=100)
            self.trouble = None
            self._lines.over("redelivery of %s goes on", self.group.name)
            return await self._run(self._lease, due) if due else 0
        except LeaseLostError as error:
            log.info("redelivery of %s stops: %s", self.group.name, error.what)
            self._lease = None
            self._renew_at = 0.0
            return 0
        except StorageError as error:
            self.trouble = None if isinstance(error, CommitUnknownError) else error.what
            text = "redelivery of %s waits for the database: %s"
            self._lines.tell(error.code, text, self.group.name, error)
            return 0
        finally:
            self._busy = False

    async def _run(self, lease: Lease, due: Sequence[Parked]) -> int:
        """Half-open, one message probes for the group; else all keys at once."""
        permit = self._gate.permit(parked=True)
        if permit == 0:
            return 0
        if permit > 1:
            await self._keys(lease, due)
            return len(due)
        try:
            await self._keys(lease, due[:1])
        finally:
            self._gate.probed()
        return 1

    async def _keys(self, lease: Lease, due: Sequence[Parked]) -> None:
        keys: dict[str, list[Parked]] = {}
        for parked in due:
            keys.setdefault(parked.key, []).append(parked)
        at_once = asyncio.Semaphore(self.group.lanes)
        name = f"redelivery:{self.group.name}"
        failures: list[StorageError] = []

        async def one(key: str, waiting: list[Parked]) -> None:
            async with at_once:
                try:
                    await self._minded(lease, key, waiting, name)
                except StorageError as error:  # the others go on; the round ends with it
                    failures.append(error)

        async with asyncio.TaskGroup() as tasks:
            for key, waiting in keys.items():
                tasks.create_task(one(key, waiting), name=name)
        if failures:
            raise failures[0]

    async def _minded(self, lease: Lease, key: str, waiting: Sequence[Parked], name: str) -> None:
        try:
            await self._parked_keys.watchdog.mind(partial(self._key, lease, key, waiting), name)
        except AbandonedError as left:
            await self._parked_keys.give_up(lease, key, waiting, left.error, left.message)

    async def _key(self, lease: Lease, key: str, waiting: Sequence[Parked], run: Run) -> None:
        """What was tried runs alone; what only queued runs as a batch, then the key closes."""
        head = waiting[0]
        if head.failure is not None or head.attempts:
            done = await self._alone(lease, key, head, run)
            self.redelivered += done
            if not done or len(waiting) > 1 or not self.group.transactional:
                return  # parked again; or due still, and the next round goes on
            waiting = ()
        closing = len(waiting) < CLOSING_BELOW
        self.redelivered += await self._parked_keys.run(lease, key, waiting, run, closing=closing)

    async def _alone(self, lease: Lease, key: str, head: Parked, run: Run) -> int:
        """How many are done and gone; what meets others again and again failed with that."""
        for again in range(CONFLICTS):
            run.called = False
            try:
                return await self._parked_keys.run(lease, key, [head], run, alone=True)
            except StorageError as error:
                if not run.called or not is_suspicious(error, run, self.group):
                    raise
                if error.code != MET_ANOTHER or again + 1 == CONFLICTS:
                    await self._parked_keys.give_up(lease, key, [head], error)
                    return 0
            await self._parked_keys.uncount(head)  # it was unlucky, and failed in nothing
            await asyncio.sleep(0.04 * (again + 1) * random())  # noqa: S311 - jitter
        raise AssertionError("the last attempt returns or raises")

    async def _hold_lease(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return
        name = f"parked/{self.group.name}"
        async with self._storage.transaction() as tx:
            held = await tx.leases.renew([self._lease], ttl=TTL) if self._lease else ()
            if not held:
                held = await tx.leases.acquire([name], owner=self._owner, ttl=TTL, limit=1)
            paused = await tx.leases.owners(f"paused/group/{self.group.name}/")
            crowd = await tx.parking.crowd(group=self.group.name, above=MOST_BEHIND_KEY // 2)
        self._lease = held[0] if held else None
        self._gate.paused_by_operator = paused > 0
        self._gate.crowded = is_crowded(crowd, self._gate.crowded)
        self._renew_at = now + (TTL.total_seconds() / 3 if held else 1.0)

    async def _give_back(self) -> None:
        if self._lease is None:
            return
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS), self._storage.transaction() as tx:
                await tx.leases.release([self._lease])
        except (TimeoutError, StorageError) as error:
            log.warning("lease %s was not given back, it runs out: %r", self._lease.name, error)
        self._lease = None
        self._renew_at = 0.0
