"""Leased partitions -> transport, whole or in waves; settle, defer (S2)."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import groupby
from random import Random

from eventbus.errors import Confirmed as ConfirmedResult
from eventbus.errors import NotSent as NotSentResult
from eventbus.errors import PublishError, StorageError, TransportError
from eventbus.errors import Rejected as RejectedResult
from eventbus.errors import Unknown as UnknownResult
from eventbus.instrumentation import Instrumentation, count_unknown, handing_over
from eventbus.outbox.holdings import TTL, Holdings
from eventbus.outbox.pace import Pace
from eventbus.outbox.refusals import Refusals
from eventbus.outbox.unsettled import MOST, Unsettled
from eventbus.resilience.seldom import SeldomLog
from eventbus.service import Alarm, pause
from eventbus.storage import Storage
from eventbus.storage.outbox import Outgoing
from eventbus.transport import Transport, Volatile

log: logging.Logger = logging.getLogger("eventbus.outbox")

GIVE_BACK_SECONDS = 2.0  # less than a supervisor waits for what it cancelled
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 1.0
MAX_ATTEMPTS = 10


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
        batch: int | None = None,
        longest_poll_seconds: float = LONGEST_POLL_SECONDS,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.relayed: int = 0  # rows confirmed, ever: progress
        self._no_database: str | None = None
        self._no_broker: str | None = None
        self._storage = storage
        self._transport = transport
        self._scheme = scheme
        self._random = random
        self._pace = Pace(batch)
        self._longest = longest_poll_seconds
        self._instrumentation = instrumentation
        self._holdings = Holdings(storage)
        self._failures = 0
        self._alarm = Alarm(lambda at_most: storage.wait("outbox", at_most=at_most), "relay")
        self._began = 0.0
        self._busy = False
        self._volatile = not transport.capabilities.durable and isinstance(transport, Volatile)
        self._unsettled = Unsettled(self._ring_if_at_rest)
        self._lines, self._broker_lines = SeldomLog(log), SeldomLog(log)
        self._refusals = Refusals(lambda: asyncio.get_running_loop().time())

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until stopping.

        Then end the batch, settle what is confirmed, release the leases.
        """
        if self._volatile and isinstance(self._transport, Volatile):
            self._transport.on_handled(self._unsettled.handled)
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        idle = SHORTEST_POLL_SECONDS
        try:
            async with self._alarm.set(stopping):
                while not stopping.is_set():
                    began = loop.time()
                    moved = await self._turn(stopping)
                    idle = SHORTEST_POLL_SECONDS if moved else min(self._longest, idle * 2)
                    if not moved:
                        await self._alarm.rest(idle)
                    elif rest := self._pace.gathering_seconds(moved, loop.time() - began):
                        await pause(stopping, rest)
        finally:
            await self._give_back()

    @property
    def trouble(self) -> str | None:
        """Why it sends nothing: each cause goes with what it concerns, also if nothing waits."""
        return self._no_database or self._no_broker

    async def idle(self) -> bool:
        """Whether nothing that is due waits here or in the database; if something does, go on."""
        if self._busy or len(self._unsettled):
            self._alarm.ring()
            return False
        if self._holdings.paused or not self._holdings.leases:
            return self._holdings.paused
        async with self._storage.transaction() as tx:
            due = await tx.outbox.promote(self._holdings.leases, limit=100)
            rows = await tx.outbox.read(self._holdings.leases, limit=1)
        if due or rows:
            self._alarm.ring()
        return not due and not rows

    async def _turn(self, stopping: asyncio.Event) -> int:
        """One round; how many rows moved."""
        self._busy = True
        try:
            if await self._holdings.hold():
                self._unsettled.read_all_next()
            works = self._holdings.leases and not self._holdings.paused
            rows = await self._read() if works else []
            self._no_database = None
            self._lines.over("the relay has its database again")
            if not rows and not len(self._unsettled):  # nothing waits here, or not any more
                self._no_broker = None
            return await self._publish(rows) if rows else 0
        except StorageError as error:
            count_unknown(self._instrumentation, error, "relay", "repeated")
            self._no_database = error.what
            self._lines.tell(error.code, "the relay waits for the database: %s", error)
            await pause(stopping, 1.0)
            return 0
        finally:
            self._busy = False

    async def _read(self) -> list[Outgoing]:
        """Settle what is handled, let join what is due, read what may go: one transaction."""
        unsettled = self._unsettled
        handled = unsettled.to_settle(asyncio.get_running_loop().time())
        out = len(unsettled) - len(handled)
        # Where several write, a lower row may be committed after a higher one was read, and before
        # one of its key: then what is out is left out one by one.
        shared = self._storage.capabilities.shared
        after, besides = (0, unsettled.rows(handled)) if shared else (unsettled.after(), ())
        rows: list[Outgoing] = []
        async with self._storage.transaction() as tx:
            if handled:
                self._notice(await tx.outbox.settle(self._holdings.leases, handled), len(handled))
            if out < MOST:
                await tx.outbox.promote(self._holdings.leases, limit=100)
                limit = self._pace.rows if after or shared else self._pace.rows + out
                found = await tx.outbox.read(
                    self._holdings.leases, limit=limit, after=after, besides=besides
                )
                rows = list(found)
        unsettled.settled(handled)
        if out >= MOST:
            return []
        rows = unsettled.unknown(rows, after=after)[: self._pace.rows]
        self._pace.came(rows)
        return rows

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
        if not down:
            self._pace.went(len(confirmed))
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
            self._unsettled.going(rows)
        try:
            with handing_over(self._instrumentation, messages, transport=self._scheme):
                async with asyncio.timeout_at(until):
                    await self._hand_over(rows)
        except PublishError as error:
            self._count_unknown(sum(isinstance(one, UnknownResult) for one in error.results))
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
                self._unsettled.came_back(row)
                out.add(row.message.key or "")
            out.discard("")
            self._no_broker = error.what if down else None
            return down
        except (TransportError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self._count_unknown(len(rows))
                self._pace.late(len(confirmed) + len(rows))
            self._no_broker = getattr(error, "what", None) or f"no answer within {TTL}"
            self._broker_lines.tell("", "the relay waits for the broker: %s", self._no_broker)
            for row in rows:
                self._unsettled.came_back(row)
            return True
        self._no_broker = None
        self._broker_lines.over("the relay has its broker again")
        self._failures = 0
        confirmed.extend(rows)
        return False

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
                self._notice(await tx.outbox.settle(self._holdings.leases, settled), len(settled))
            self._refusals.tell(rejected)
            for row, reason in rejected:
                delay = delay_after(row.attempts + 1, self._random)
                if delay is None:
                    log.error("message %s is not tried again, until outbox retry", row.message.id)
                self._notice(
                    await tx.outbox.defer(self._holdings.leases, [row], delay=delay, error=reason),
                    1,
                )

    def _notice(self, changed: int, wanted: int) -> None:
        """Rows that did not change belong to somebody else: ask at once which leases are ours."""
        if changed < wanted:
            self._holdings.doubt()

    def _count_unknown(self, messages: int) -> None:
        """Perhaps the broker holds them; they go out again under the same ids."""
        if messages and self._instrumentation is not None:
            self._instrumentation.count(
                "unknown_outcomes_total", messages, operation="publish", outcome="repeated"
            )

    def _ring_if_at_rest(self) -> None:
        if not self._busy:
            self._alarm.ring()

    async def _give_back(self) -> None:
        handled = self._unsettled.to_settle(float("inf"))
        if not self._holdings.all:
            return
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS), self._storage.transaction() as tx:
                if handled:
                    await tx.outbox.settle(self._holdings.leases, handled)
                await tx.leases.release(self._holdings.all)
        except (TimeoutError, StorageError) as error:
            log.warning("leases of the relay were not given back, they run out: %r", error)
        self._holdings.released()


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
