"""One member of a group: joining, fetching, verdicts, giving back, and a watch on its progress."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    ConsumerStoppedError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)

from eventbus.errors import TransportError
from eventbus.service import end
from eventbus.transport import Delivery, Interest, OnLost
from eventbus_kafka.clients import connecting, consumer, stop_consumer, within
from eventbus_kafka.commits import Commits
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import Assigned, KafkaDelivery
from eventbus_kafka.errors import CLIENT_ERRORS, described, may_heal, transport_error
from eventbus_kafka.intake import Fetched, Intake, Repeated
from eventbus_kafka.mapping import Mapper
from eventbus_kafka.watermark import Mark, read_mark

log: logging.Logger = logging.getLogger("eventbus.kafka")

JOIN_SECONDS = 60.0
ENTER_SECONDS = 4.0  # entering waits so long for an assignment, then goes on joining
POLL_MS = 200
RECORDS_AT_ONCE = 50  # of a fetch: more outlive the young generation, and every collection is dear
FULL_SECONDS = 1.0  # a stall that lasts longer pauses the partitions
REVOKE_ROOM_SECONDS = 15.0  # between the end of what runs and the deadline of the group
LAST_COMMIT_SECONDS = 2.0
STOP_SECONDS = 3.0
MOST_BETWEEN_SECONDS = 2.0  # two clients
WATCH_SECONDS = 5.0
MAX_REBUILDS, REBUILD_WINDOW_SECONDS = 3, 600.0
MAX_EVICTIONS, EVICTION_WINDOW_SECONDS = 3, 300.0

NO_ANSWER: tuple[type[Exception], ...] = (*CLIENT_ERRORS, TransportError)


class KafkaSubscription(ConsumerRebalanceListener):
    """Joins on entering, leaves on exit; a new client whenever the old one is of no use."""

    def __init__(
        self,
        config: KafkaConfig,
        control: Control,
        interest: Interest,
        on_lost: OnLost,
    ) -> None:
        self.interest = interest
        self.trouble: str | None = "not joined yet"
        self.rebalances: int = 0
        self.rebuilds: int = 0
        self.is_left: bool = False
        self._config = config
        self._control = control
        self._on_lost = on_lost
        self._where = f"group {interest.group}, {config.where}"
        self._intake = Intake(
            Mapper(config.cluster_name, config.foreign),
            max_in_flight=interest.max_in_flight,
            max_bytes=config.max_held_bytes,
        )
        self._client: AIOKafkaConsumer | None = None
        self._epoch = 0
        self._fresh: frozenset[TopicPartition] | None = None  # assigned, not settled in yet
        self._parts: dict[TopicPartition, Assigned] = {}
        self._commits: Commits | None = None
        self._assigned = asyncio.Event()
        self._handing_over = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._is_leaving = False
        self._discarding: asyncio.Task[bool] | None = None
        self._failed: TransportError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._restart = asyncio.Event()
        self._progress_at = 0.0
        self._evictions = Repeated(MAX_EVICTIONS, EVICTION_WINDOW_SECONDS)
        self._rebuilt = Repeated(MAX_REBUILDS, REBUILD_WINDOW_SECONDS)

    @property
    def late(self) -> int:
        """Verdicts that came twice, or too late."""
        return self._intake.late

    # joining and leaving

    async def __aenter__(self) -> Self:
        if self._tasks or self.is_left:
            raise TransportError(
                "EB2105",
                "the subscription was entered before, or its transport is closed",
                where=self._where,
                why="a member joins once",
                next="subscribe again",
            )
        group = self.interest.group
        self._tasks = [asyncio.create_task(self._keep_up(), name=f"poll:{group}")]
        self._tasks.append(asyncio.create_task(self._watch(), name=f"progress:{group}"))
        try:
            async with asyncio.timeout(ENTER_SECONDS):
                await self._assigned.wait()
        except TimeoutError:
            log.info("group %s: still joining", group)
        except BaseException:
            await self.leave()
            raise
        if self._failed is not None:
            await self.leave()
            raise self._failed
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Send what is recorded, give back the rest, leave the group; the second time nothing.

        Ends by itself within 10 s, though it be cancelled.
        """
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(), name=f"leave:{self.interest.group}")
        if self._telling is not None and self._telling is asyncio.current_task():
            return  # whoever is told of a loss cannot wait for the telling to end
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        self._is_leaving = True
        self._intake.lose()
        self._intake.something.set()
        self._intake.room.set()
        telling = self._telling
        if telling is not None and not telling.done():
            telling.cancel()
        try:
            async with asyncio.timeout(LAST_COMMIT_SECONDS * 2):
                async with self._handing_over:
                    await self._hand_over(LAST_COMMIT_SECONDS)
        except TimeoutError:
            log.warning("group %s: leaving without a last commit", self.interest.group)
        await self._discard()
        await end(self._tasks)
        await self._discard()
        self._close_parts()
        self.is_left = True

    async def _discard(self) -> None:
        """Stop the client, if there is one; whoever comes meanwhile waits for the same end."""
        client, self._client = self._client, None
        if client is not None:
            self._discarding = asyncio.create_task(
                stop_consumer(client, STOP_SECONDS), name=f"leave:{self.interest.group}"
            )
        if self._discarding is not None:
            await asyncio.wait([self._discarding])

    # what the pipeline sees

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        while True:
            if self._failed is not None and not self._is_leaving:
                raise self._failed
            if self._is_leaving:
                raise StopAsyncIteration
            if self._intake.is_waiting:
                return self._intake.take()
            self._intake.something.clear()
            await self._intake.something.wait()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Recorded, and with the broker within a second; late ones are counted."""
        counted = self._intake.settle(cast("Sequence[KafkaDelivery]", deliveries))
        for delivery in counted:
            delivery.assigned.watermark.finish(delivery.number, delivery.epoch)
        if counted:
            self._progress_at = asyncio.get_running_loop().time()
            if self._commits is not None:
                self._commits.verdicts(len(counted))

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Comes again when this member has left: nothing of its partition may overtake it."""
        for delivery in self._intake.settle(cast("Sequence[KafkaDelivery]", deliveries)):
            self._halt(delivery.assigned, "a message was given back")

    async def flush(self) -> None:
        """Return when every recorded verdict is with the broker; always lets others run.

        Raises:
            TransportError: EB2312, it was not within 10 s; the messages come again.
        """
        await asyncio.sleep(0)
        commits = self._commits
        if commits is None:
            return
        try:
            async with asyncio.timeout(10):
                await commits.flush()
        except TimeoutError:
            raise TransportError(
                "EB2312",
                "verdicts are not with the broker",
                where=self._where,
                why="no answer to the commit within 10 s",
                next="nothing: these messages come again, and the inbox drops them",
            ) from None

    async def backlog(self) -> int | None:
        """Of the partitions that this member has: end offset - what is committed."""
        client = self._client
        if client is None or self._fresh is not None or not self._assigned.is_set():
            return None
        parts = list(self._parts.values())
        if not parts:
            return 0
        try:
            ends = await within(2.0, client.end_offsets([each.part for each in parts]))
            for each in parts:
                if not each.watermark.is_open:
                    each.watermark.pass_over(await within(1.0, client.position(each.part)))
        except CLIENT_ERRORS:
            return None
        return sum(max(0, ends[each.part] - each.watermark.safe) for each in parts)

    # the life of a client

    async def _keep_up(self) -> None:
        delay = 0.2
        while not self._is_leaving and self._failed is None:
            began = asyncio.get_running_loop().time()
            try:
                await self._live()
            except TransportError as error:
                if error.code != "EB2001":
                    self._fail(error)
                    return
                self.trouble = f"group {self.interest.group!r}: {error.what}: {error.why}"
                log.warning("%s", self.trouble)
            if asyncio.get_running_loop().time() - began > 30:
                delay = 0.2
            if not self._is_leaving and self._failed is None:
                await asyncio.sleep(delay)
                delay = min(MOST_BETWEEN_SECONDS, delay * 2)

    async def _live(self) -> None:
        """One client: join, poll until it is of no use; its partitions are lost then.

        Raises:
            TransportError: what no new client mends.
        """
        self._restart.clear()
        polling = asyncio.create_task(self._join_and_poll(), name=f"poll:{self.interest.group}")
        restart = asyncio.create_task(self._restart.wait(), name=f"poll:{self.interest.group}")
        try:
            await asyncio.wait([polling, restart], return_when=asyncio.FIRST_COMPLETED)
            if self._is_leaving:
                await asyncio.wait([polling])
                return
            self._assigned.clear()
            await self._discard()
            await self._give_up()
        finally:
            await end([polling, restart])
        if polling.done() and not polling.cancelled():
            error = polling.exception()
            if isinstance(error, TransportError):
                raise error
            if error is not None:
                self.trouble = described(error)
                log.warning("group %s: a new client: %s", self.interest.group, self.trouble)
                if not isinstance(error, CLIENT_ERRORS):
                    log.error("unexpected", exc_info=error)
                elif not may_heal(error):
                    raise transport_error(error, "consume", self._where) from error

    async def _join_and_poll(self) -> None:
        if self._is_leaving:
            return
        async with connecting(self._config):
            client = consumer(self._config, self.interest.group)
            self._client = client
            client.subscribe(topics=list(self.interest.topics), listener=self)
            await within(JOIN_SECONDS, client.start())
        while not self._is_leaving:
            if self._fresh is not None and not await self._settle_in(client):
                continue
            await self._poll(client)

    async def _settle_in(self, client: AIOKafkaConsumer) -> bool:
        """Where each assigned partition begins; False: they were taken away meanwhile."""
        fresh = self._fresh
        assert fresh is not None  # noqa: S101 - asked by the only caller
        found = await self._beginnings(sorted(fresh))
        if self._fresh is not fresh:
            return False
        self._epoch += 1
        self._parts = {part: Assigned(part, self._epoch, mark) for part, mark in found.items()}
        for part, mark in found.items():
            client.seek(part, mark.offset)
        commits = Commits(
            client,
            list(self._parts.values()),
            ahead=4 * self.interest.max_in_flight,
            every_seconds=self._config.commit_seconds,
            where=self._where,
            refused=self._note_refusal,
        )
        self._commits = commits
        try:
            await commits.raise_limits()
        except CLIENT_ERRORS as error:
            log.info("group %s: first commit: %s", self.interest.group, described(error))
            self._note_refusal(error)
            await asyncio.sleep(0.1)
            return False
        if self._fresh is not fresh:
            return False
        commits.start(self.interest.group)
        self._fresh = None
        self._progress_at = asyncio.get_running_loop().time()
        self.trouble = None
        self._assigned.set()
        return True

    async def _beginnings(self, parts: Sequence[TopicPartition]) -> dict[TopicPartition, Mark]:
        """What the group has committed; for a group that is new here `Interest.start`."""
        if not parts:
            return {}
        kept = await self._control.committed(self.interest.group, parts)
        new = [part for part in parts if part not in kept or kept[part].offset < 0]
        edge = self._control.ends if self.interest.start == "latest" else self._control.beginnings
        begin = await edge(new) if new else {}
        gap = self._config.max_gap
        return {
            part: Mark(begin[part], begin[part])
            if part in begin
            else read_mark(kept[part].offset, kept[part].metadata, gap)
            for part in parts
        }

    async def _poll(self, client: AIOKafkaConsumer) -> None:
        room = self._intake.free()
        ready = (
            [each.part for each in self._parts.values() if self._may_fetch(each)] if room else []
        )
        if not ready and self._parts:
            await self._stall(client)
            return
        if paused := client.paused():
            client.resume(*(part for part in ready if part in paused))
        try:
            most = min(room, RECORDS_AT_ONCE) or None
            got = await client.getmany(*ready, timeout_ms=POLL_MS, max_records=most)
        except NoOffsetForPartitionError:
            return  # of a new group, before the seek
        except OffsetOutOfRangeError as error:
            await self._out_of_range(client, error)
            return
        except RecordTooLargeError as error:
            _, part, offset, *_ = error.args
            log.exception("group %s: %s at %d is too large", self.interest.group, part, offset)
            if (each := self._parts.get(part)) is not None:
                self._intake.put([self._intake.read_unreadable(each, offset)])
            return
        except ConsumerStoppedError:
            if self._is_leaving:
                return
            raise
        if got and self._fresh is None:
            await self._take(got)

    async def _stall(self, client: AIOKafkaConsumer) -> None:
        """No room: wait for verdicts; when it lasts, pause, and poll only to hear of errors."""
        self._intake.room.clear()
        try:
            async with asyncio.timeout(FULL_SECONDS):
                await self._intake.room.wait()
        except TimeoutError:
            parts = [part for part in self._parts if part in client.assignment()]
            if parts and self._fresh is None:
                client.pause(*parts)
                await client.getmany(timeout_ms=0)

    def _may_fetch(self, each: Assigned) -> bool:
        """One stuck message must not grow memory and repeats without end."""
        if each.halted is not None:
            return False
        gap = each.watermark.gap
        if not gap:
            each.stuck_since = None
            return True
        now = asyncio.get_running_loop().time()
        if each.stuck_since is None or each.stuck_at != each.watermark.safe:
            each.stuck_since, each.stuck_at = now, each.watermark.safe
        return gap < self._config.max_gap and now - each.stuck_since < self._config.max_gap_seconds

    async def _take(self, got: Fetched) -> None:
        """Records become deliveries; none at or above the limit before it was raised."""
        must_raise = False
        fetched: list[KafkaDelivery] = []
        for part, records in got.items():
            assigned = self._parts.get(part)
            if assigned is not None:
                fetched += self._intake.read(assigned, records)
                must_raise = must_raise or assigned.seen > assigned.limit
        self._progress_at = asyncio.get_running_loop().time()
        if must_raise:
            await self._raise_limits()
        self._intake.put(fetched)

    async def _raise_limits(self) -> None:
        while self._commits is not None and self._fresh is None and not self._is_leaving:
            try:
                await self._commits.raise_limits()
            except CLIENT_ERRORS as error:
                log.warning("group %s: limits: %s", self.interest.group, described(error))
                self._note_refusal(error)
                await asyncio.sleep(0.1)
            else:
                return

    async def _out_of_range(self, client: AIOKafkaConsumer, error: OffsetOutOfRangeError) -> None:
        """Retention was faster than the group: say so, and stop unless told to go on."""
        (gone,) = error.args
        for part in gone:
            each = self._parts.get(part)
            if each is None:
                continue
            first = (await self._control.beginnings([part]))[part]
            log.error(
                "group %s: %s does not hold offset %d, it begins at %d: messages are lost",
                *(self.interest.group, each.name, gone[part], first),
            )
            if self._config.on_data_loss == "earliest":
                each.watermark.pass_over(first)
                client.seek(part, first)
            else:
                what = f"{each.name} does not hold offset {gone[part]} any more (EB2306)"
                self._halt(each, what)
                self.trouble = f"group {self.interest.group!r}: {what}"

    def _halt(self, assigned: Assigned, why: str) -> None:
        assigned.halted = why
        self._intake.drop(assigned)

    # rebalances

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What runs ends, its verdicts are committed; only then the group goes on."""
        self._fresh = None
        self._assigned.clear()
        self._progress_at = asyncio.get_running_loop().time()
        lost = self._intake.lose()
        async with self._handing_over:
            if lost and not self._is_leaving:
                await self._tell(lost)
            await self._hand_over(5.0)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Heartbeats rest while this runs: only note it (T16)."""
        self.rebalances += 1
        self._fresh = frozenset(assigned)

    async def _hand_over(self, seconds: float) -> None:
        commits, self._commits = self._commits, None
        if commits is not None:
            await commits.finish(seconds)
        self._close_parts()

    async def _give_up(self) -> None:
        """The client is of no use: nothing can be committed, somebody else may get it all."""
        self._fresh = None
        lost = self._intake.lose()
        async with self._handing_over:
            if lost and not self._is_leaving:
                await self._tell(lost)
            commits, self._commits = self._commits, None
            if commits is not None:
                await commits.abandon()
            self._close_parts()

    async def _tell(self, lost: Sequence[KafkaDelivery]) -> None:
        """In a task of its own, which ends with this member, and at the deadline."""
        seconds = max(1.0, self._config.rebalance_seconds - REVOKE_ROOM_SECONDS)
        deadline = asyncio.get_running_loop().time() + seconds
        self._telling = asyncio.create_task(
            self._call_on_lost(lost, deadline), name=f"on-lost:{self.interest.group}"
        )
        await asyncio.wait([self._telling], timeout=seconds)
        await end([self._telling])

    async def _call_on_lost(self, lost: Sequence[KafkaDelivery], deadline: float) -> None:
        try:
            await self._on_lost(lost, deadline)
        except Exception:  # the group goes on without this member's answer
            log.exception("on_lost of group %s failed", self.interest.group)

    def _close_parts(self) -> None:
        for each in self._parts.values():
            each.is_closed = True
        self._parts = {}
        self._intake.void()

    # what goes wrong

    def _fail(self, error: TransportError) -> None:
        self._failed = error
        self.trouble = f"group {self.interest.group!r}: {error.what}: {error.why}"
        log.error("group %s ends: %s", self.interest.group, error)
        self._assigned.set()
        self._intake.something.set()

    def _note_refusal(self, error: BaseException) -> None:
        """Two processes under one instance id evict each other for ever: find that out."""
        cause = error.__cause__ or error
        if self._config.group_instance_id is None or not _is_eviction(cause):
            return
        if self._evictions.again(asyncio.get_running_loop().time()):
            self._fail(
                TransportError(
                    "EB2309",
                    f"group_instance_id {self._config.group_instance_id!r} is used twice",
                    where=self._where,
                    why=f"thrown out {MAX_EVICTIONS} times within five minutes",
                    next="give each process an id of its own, the pod's name",
                )
            )
            self._restart.set()

    async def _watch(self) -> None:
        """A consumer that stops silently is replaced; three times in ten minutes are too many."""
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self._config.silence_seconds))
            if not await self._is_silent():
                continue
            now = asyncio.get_running_loop().time()
            self.rebuilds += 1
            self.trouble = f"group {self.interest.group!r} made no progress; a new client"
            log.error("group %s: no progress: a new client", self.interest.group)
            self._progress_at = now
            if self._rebuilt.again(now):
                self._fail(
                    TransportError(
                        "EB2308",
                        f"group {self.interest.group!r} makes no progress",
                        where=self._where,
                        why=f"{MAX_REBUILDS} new clients within ten minutes did not help",
                        next="restart the process; look at the broker's log of the group",
                    )
                )
            self._restart.set()

    async def _is_silent(self) -> bool:
        """Records wait, there is room, and nothing has come for long."""
        idle = asyncio.get_running_loop().time() - self._progress_at
        parts = [each for each in self._parts.values() if self._may_fetch(each)]
        if (
            idle < self._config.silence_seconds
            or not parts
            or not self._intake.free()
            or self._intake.is_waiting
        ):
            return False
        client = self._client
        if client is None or self._fresh is not None:
            return False
        try:
            ends = await self._control.ends([each.part for each in parts])
            at = {each.part: await within(1.0, client.position(each.part)) for each in parts}
        except NO_ANSWER:
            return False
        return any(at[part] < ends[part] for part in at)


def _is_eviction(error: BaseException) -> bool:
    return type(error).__name__ in {"UnknownMemberIdError", "FencedInstanceIdError"}
