"""Leased partitions -> transport, whole or in waves; settle, defer (S2)."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from itertools import groupby
from random import Random
from uuid import uuid4

from eventbus.errors import Confirmed as ConfirmedResult
from eventbus.errors import NotSent as NotSentResult
from eventbus.errors import PublishError, StorageError, TransportError
from eventbus.errors import Rejected as RejectedResult
from eventbus.errors import Unknown as UnknownResult
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.outbox.partitions import fair_share, surplus, wanted
from eventbus.service import Alarm, pause
from eventbus.storage import Storage
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing
from eventbus.transport import Transport, Volatile

log: logging.Logger = logging.getLogger("eventbus.outbox")

TTL = timedelta(seconds=10)
BATCH = 500
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 1.0
MAX_ATTEMPTS = 10
SETTLE_AT, SETTLE_EVERY_SECONDS = 1_000, 0.1  # of rows that a volatile transport had
MAX_OUT = 10_000  # rows that a volatile transport holds and their groups have not finished


class Relay:
    """Moves committed rows to the broker.

    At least once, each key in order, with no transaction open.
    """

    def __init__(
        self,
        storage: Storage,
        transport: Transport,
        *,
        scheme: str,
        random: Random,
        batch: int = BATCH,
        longest_poll_seconds: float = LONGEST_POLL_SECONDS,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.relayed: int = 0  # rows confirmed, ever: progress
        self.leases: Sequence[Lease] = ()
        self.trouble: str | None = None
        self.paused: bool = False
        self._storage = storage
        self._transport = transport
        self._scheme = scheme
        self._random = random
        self._batch = batch
        self._longest = longest_poll_seconds
        self._instrumentation = instrumentation
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._renew_at = 0.0
        self._failures = 0
        self._presence: Sequence[Lease] = ()
        self._alarm = Alarm(lambda at_most: storage.wait("outbox", at_most=at_most), "relay")
        self._began = 0.0
        self._busy = False
        # Rows that the transport holds only in this process: settled once their groups are done,
        # and known here until then, or the next read would send them again.
        self._volatile = not transport.capabilities.durable and isinstance(transport, Volatile)
        self._out: dict[tuple[str, str], Outgoing] = {}
        self._handled: list[Outgoing] = []
        self._reads = 0
        self._gap = False
        self._settled_at = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until stopping.

        Then end the batch, settle what is confirmed, release the leases.
        """
        if self._volatile and isinstance(self._transport, Volatile):
            self._transport.on_handled(self._take_handled)
        self._began = asyncio.get_running_loop().time()
        idle = SHORTEST_POLL_SECONDS
        try:
            async with self._alarm.set(stopping):
                while not stopping.is_set():
                    moved = await self._turn(stopping)
                    idle = SHORTEST_POLL_SECONDS if moved else min(self._longest, idle * 2)
                    if not moved:
                        await self._alarm.rest(idle)
        finally:
            await self._give_back()

    async def idle(self) -> bool:
        """Whether nothing that is due waits here or in the database; if something does, go on."""
        if self._busy or self._out:
            self._alarm.ring()
            return False
        if self.paused or not self.leases:
            return self.paused
        async with self._storage.transaction() as tx:
            due = await tx.outbox.promote(self.leases, limit=100)
            rows = await tx.outbox.read(self.leases, limit=1)
        if due or rows:
            self._alarm.ring()
        return not due and not rows

    async def _turn(self, stopping: asyncio.Event) -> int:
        """One round; how many rows moved."""
        self._busy = True
        try:
            await self._hold_leases()
            if not self.leases or self.paused:
                return 0
            rows = await self._read()
            return await self._publish(rows) if rows else 0
        except StorageError as error:
            self.trouble = error.what
            log.warning("the relay waits for the database: %s", error)
            await pause(stopping, 1.0)
            return 0
        finally:
            self._busy = False

    async def _read(self) -> list[Outgoing]:
        """Settle what is handled, let join what is due, read what may go: one transaction."""
        handled = self._to_settle()
        rows: Sequence[Outgoing] = ()
        async with self._storage.transaction() as tx:
            if handled:
                self._notice(await tx.outbox.settle(self.leases, handled), len(handled))
            after = self._after()
            if len(self._out) - len(handled) < MAX_OUT:
                await tx.outbox.promote(self.leases, limit=100)
                limit = self._batch if after else self._batch + len(self._out)
                rows = await tx.outbox.read(self.leases, limit=limit, after=after)
        del self._handled[: len(handled)]
        for row in handled:
            self._out.pop(_identity(row.message), None)
        if not after:
            self._gap = False
        if not self._out:
            return list(rows)
        return [row for row in rows if _identity(row.message) not in self._out][: self._batch]

    def _to_settle(self) -> list[Outgoing]:
        """Handled rows, many at a time: one that is lost is only sent again, and recognised."""
        now = asyncio.get_running_loop().time()
        few = len(self._handled) < SETTLE_AT and len(self._handled) < len(self._out)
        if few and now - self._settled_at < SETTLE_EVERY_SECONDS:
            return []
        self._settled_at = now
        return self._handled[:]

    def _after(self) -> int:
        """The highest row that is out, if all below it are out too: they need not be read again.

        Not once one of them came back unsent: its key goes on from it. And each tenth read starts
        at the beginning, for a lower row may have been committed since.
        """
        self._reads = (self._reads + 1) % 10
        if self._gap or not self._reads:
            return 0
        return max((row.row for row in self._out.values()), default=0)

    async def _publish(self, rows: list[Outgoing]) -> int:
        """Whole where the transport stops at a refusal, else in waves of one row per key."""
        until = asyncio.get_running_loop().time() + TTL.total_seconds() - 1.0
        confirmed: list[Outgoing] = []
        rejected: list[tuple[Outgoing, str]] = []
        waves = [rows] if self._transport.capabilities.stops_at_refusal else waves_of(rows)
        out: set[str] = set()
        down = False
        for wave in waves:
            going = [row for row in wave if row.message.key not in out]
            if not going or down or asyncio.get_running_loop().time() >= until:
                break
            down = await self._wave(going, confirmed, rejected, out, until)
        await self._note(confirmed, rejected)
        if down and not confirmed:
            await asyncio.sleep(self._back_off())
        return len(confirmed) + len(rejected)

    async def _wave(
        self,
        rows: list[Outgoing],
        confirmed: list[Outgoing],
        rejected: list[tuple[Outgoing, str]],
        out: set[str],
        until: float,
    ) -> bool:
        """One call; True: the transport is down, or its answer is unknown."""
        messages = [row.message for row in rows]
        if self._volatile:
            self._out.update((_identity(row.message), row) for row in rows)
        spans = self._instrumentation
        try:
            with nullcontext() if spans is None else spans.sending(messages):
                async with asyncio.timeout_at(until):
                    await self._hand_over(rows)
        except PublishError as error:
            down = False
            for row, result in zip(rows, error.results, strict=True):
                match result:
                    case ConfirmedResult():
                        confirmed.append(row)
                        continue
                    case RejectedResult(reason):
                        rejected.append((row, reason))
                    case UnknownResult():
                        down = True
                self._forget(row)
                out.add(row.message.key or "")
            out.discard("")
            self.trouble = error.what if down else None
            return down
        except (TransportError, TimeoutError) as error:
            self.trouble = getattr(error, "what", None) or f"no answer within {TTL}"
            log.warning("the relay waits for the broker: %s", self.trouble)
            for row in rows:
                self._forget(row)
            return True
        self.trouble = None
        self._failures = 0
        confirmed.extend(rows)
        return False

    def _forget(self, row: Outgoing) -> None:
        """It did not go out: the next read must find it before the later ones of its key."""
        if self._out.pop(_identity(row.message), None) is not None:
            self._gap = True

    async def _hand_over(self, rows: Sequence[Outgoing]) -> None:
        """What stood here before we began, another process may have handed to a volatile broker.

        Raises:
            PublishError: `results` are aligned with all of the rows.
        """
        if not isinstance(self._transport, Volatile) or not self._volatile:
            await self._transport.publish([row.message for row in rows])
            return
        since = timedelta(seconds=asyncio.get_running_loop().time() - self._began)
        sent = 0
        for old, group in groupby(rows, key=lambda row: row.age > since):
            some = [row.message for row in group]
            publish = self._transport.publish_again if old else self._transport.publish
            try:
                await publish(some)
            except PublishError as error:
                behind = len(rows) - sent - len(some)
                error.results = [
                    *[ConfirmedResult()] * sent,
                    *error.results,
                    *[NotSentResult()] * behind,
                ]
                raise
            sent += len(some)

    def _back_off(self) -> float:
        """0.1 s doubling to 30 s; the leases are kept: nobody else reaches that broker either."""
        self._failures += 1
        return float(min(30.0, 0.1 * 2 ** (self._failures - 1)))

    async def _note(
        self, confirmed: list[Outgoing], rejected: Sequence[tuple[Outgoing, str]]
    ) -> None:
        """Settle and defer, in one transaction."""
        self.relayed += len(confirmed)
        if self._instrumentation is not None:
            for outcome, amount in (("confirmed", len(confirmed)), ("rejected", len(rejected))):
                if amount:
                    self._instrumentation.count(
                        "outbox_relayed_total", amount, transport=self._scheme, outcome=outcome
                    )
        settled = [] if self._volatile else confirmed
        if not settled and not rejected:
            return
        async with self._storage.transaction() as tx:
            if settled:
                self._notice(await tx.outbox.settle(self.leases, settled), len(settled))
            for row, reason in rejected:
                log.warning("the broker refused message %s: %s", row.message.id, reason)
                delay = delay_after(row.attempts + 1, self._random)
                self._notice(
                    await tx.outbox.defer(self.leases, [row], delay=delay, error=reason), 1
                )

    def _notice(self, changed: int, wanted: int) -> None:
        """Rows that did not change belong to somebody else: ask at once which leases are ours."""
        if changed < wanted:
            self._renew_at = 0.0

    def _take_handled(self, messages: Sequence[Message]) -> None:
        """Every group is done with these: their rows may go."""
        for message in messages:
            row = self._out.get(_identity(message))
            if row is not None:
                self._handled.append(row)
        enough = len(self._handled) >= SETTLE_AT or len(self._handled) == len(self._out)
        if enough and not self._busy:
            self._alarm.ring()

    async def _hold_leases(self) -> None:
        """Renew at a third of the ttl; take up to the fair share, give back what is above it."""
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return
        async with self._storage.transaction() as tx:
            self._presence = await tx.leases.renew(self._presence, ttl=TTL)
            if not self._presence:
                self._presence = await tx.leases.acquire(
                    [f"relay/{self._owner}"], owner=self._owner, ttl=TTL, limit=1
                )
            relays = await tx.leases.owners("relay/")
            self.paused = await tx.leases.owners("paused/outbox/") > 0
            held = await tx.leases.renew(self.leases, ttl=TTL) if self.leases else ()
            extra = surplus(held, relays)
            if extra:
                await tx.leases.release(extra)
                held = held[: fair_share(relays)]
            names, more = wanted(held, relays)
            if more:
                taken = await tx.leases.acquire(names, owner=self._owner, ttl=TTL, limit=more)
                held = [*held, *taken]
                self._gap = self._gap or bool(taken)  # their older rows were never read here
        self.leases = held
        self._renew_at = now + (TTL.total_seconds() / 3 if held else 1.0)

    async def _give_back(self) -> None:
        leases = [*self.leases, *self._presence]
        handled, self._handled = self._handled, []
        if not leases:
            return
        async with asyncio.timeout(5), self._storage.transaction() as tx:
            if handled:
                await tx.outbox.settle(self.leases, handled)
            await tx.leases.release(leases)
        self.leases = self._presence = ()
        self._renew_at = 0.0


def waves_of(rows: Iterable[Outgoing]) -> list[list[Outgoing]]:
    """Calls of which each holds at most one row of a key, in row order.

    What has no key goes first.
    """
    waves: list[list[Outgoing]] = []
    depth: dict[str, int] = {}
    for row in rows:
        key = row.message.key
        level = 0 if key is None else depth.get(key, 0)
        if key is not None:
            depth[key] = level + 1
        if level == len(waves):
            waves.append([])
        waves[level].append(row)
    return waves


def delay_after(attempts: int, random: Random) -> timedelta | None:
    """1 s doubling to 5 min, 20 % more or less; None: failed, an operator's turn."""
    if attempts >= MAX_ATTEMPTS:
        return None
    return timedelta(seconds=min(300.0, 2.0 ** (attempts - 1)) * random.uniform(0.8, 1.2))


def _identity(message: Message) -> tuple[str, str]:
    return message.source, message.id
