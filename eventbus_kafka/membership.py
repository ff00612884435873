"""Being a member of a group: joining, settling in, giving back; a new client for a useless one."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError

from eventbus.errors import TransportError
from eventbus.service import end
from eventbus.transport import Interest, OnLost
from eventbus_kafka.assignment import Assignment, beginnings
from eventbus_kafka.clients import connecting, consumer, stop_consumer, within
from eventbus_kafka.commits import Commits
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import Assigned, KafkaDelivery
from eventbus_kafka.errors import CLIENT_ERRORS, described, may_heal, transport_error
from eventbus_kafka.fetching import Fetching
from eventbus_kafka.health import Health
from eventbus_kafka.intake import Intake

log: logging.Logger = logging.getLogger("eventbus.kafka")

JOIN_SECONDS = 60.0
REVOKE_ROOM_SECONDS = 15.0  # between the end of what runs and the deadline of the group
REVOKED_COMMIT_SECONDS = 5.0
LAST_COMMIT_SECONDS = 2.0
STOP_SECONDS = 3.0
MOST_BETWEEN_SECONDS = 2.0  # two clients
WHOLE_SECONDS = 30.0  # a client that lived so long was of use


class Membership(ConsumerRebalanceListener):
    """One client after the other, and the assignment that the present one has."""

    def __init__(
        self,
        config: KafkaConfig,
        control: Control,
        interest: Interest,
        *,
        on_lost: OnLost,
        intake: Intake,
        health: Health,
    ) -> None:
        self.rebalances: int = 0
        self.clients: int = 0  # that joined, one after another
        self.settled: asyncio.Event = asyncio.Event()  # what came last has settled in
        self.client: AIOKafkaConsumer | None = None
        self.assignment: Assignment | None = None
        self._config = config
        self._control = control
        self._interest = interest
        self._on_lost = on_lost
        self._intake = intake
        self._health = health
        self._fetching = Fetching(config, control, interest.group, intake, health)
        self._where = f"group {interest.group}, {config.where}"
        self._is_leaving = False
        self._epoch = 0
        self._fresh: frozenset[TopicPartition] | None = None  # assigned, not settled in yet
        self._handing_over = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None
        self._discarding: asyncio.Task[bool] | None = None

    def current(self) -> Assignment | None:
        """What is fetched from now; None while the group rebalances."""
        now = self.assignment
        return now if now is not None and self._fresh is None and not now.is_over else None

    def is_telling(self) -> bool:
        """Whether the task that asks is the one that tells of a loss."""
        return self._telling is not None and self._telling is asyncio.current_task()

    # the life of a client

    async def keep_up(self) -> None:
        """Until it leaves, or fails for good."""
        delay = 0.2
        while not self._is_over():
            began = asyncio.get_running_loop().time()
            try:
                await self._live()
            except TransportError as error:
                if error.code != "EB2001":
                    self._health.fail(error)
                    return
                self._health.say(f"{error.what}: {error.why}")
                log.warning("%s", self._health.trouble)
            if asyncio.get_running_loop().time() - began > WHOLE_SECONDS:
                delay = 0.2
            if not self._is_over():
                await asyncio.sleep(delay)
                delay = min(MOST_BETWEEN_SECONDS, delay * 2)

    def _is_over(self) -> bool:
        return self._is_leaving or self._health.failed is not None

    async def _live(self) -> None:
        """One client: join, poll until it is of no use; its partitions are lost then.

        Raises:
            TransportError: what no new client mends.
        """
        restart = self._health.restart
        restart.clear()
        name = f"poll:{self._interest.group}"
        polling = asyncio.create_task(self._join_and_poll(), name=name)
        restarting = asyncio.create_task(restart.wait(), name=name)
        try:
            await asyncio.wait([polling, restarting], return_when=asyncio.FIRST_COMPLETED)
            if self._is_leaving:
                await asyncio.wait([polling])
                return
            self.settled.clear()
            await self.discard()
            await self._give_up()
        finally:
            await end([polling, restarting])
        if polling.done() and not polling.cancelled() and (error := polling.exception()):
            self._ended(error)

    def _ended(self, error: BaseException) -> None:
        """A client has ended with it: another one follows, unless this does not heal."""
        if isinstance(error, TransportError):
            raise error
        self._health.trouble = described(error)
        log.warning("group %s: a new client: %s", self._interest.group, self._health.trouble)
        if not isinstance(error, CLIENT_ERRORS):
            log.error("unexpected", exc_info=error)
        elif not may_heal(error):
            raise transport_error(error, "consume", self._where) from error

    async def _join_and_poll(self) -> None:
        if self._is_leaving:
            return
        async with connecting(self._config):
            client = consumer(self._config, self._interest.group)
            self.client = client
            client.subscribe(topics=list(self._interest.topics), listener=self)
            await within(JOIN_SECONDS, client.start())
        self.clients += 1
        while not self._is_leaving:
            if self._fresh is not None and not await self._settle_in(client, self._fresh):
                continue
            try:
                now = self.current()
                await (self._fetching.idle(client) if now is None else self._fetching.poll(now))
            except ConsumerStoppedError:
                if not self._is_leaving:
                    raise

    async def _settle_in(self, client: AIOKafkaConsumer, fresh: frozenset[TopicPartition]) -> bool:
        """Where each assigned partition begins; False: they were taken away meanwhile."""
        marks = await beginnings(
            sorted(fresh), self._interest, control=self._control, max_gap=self._config.max_gap
        )
        if self._fresh is not fresh:
            return False
        self._epoch += 1
        parts = [Assigned(part, self._epoch, mark) for part, mark in marks.items()]
        for part, mark in marks.items():
            client.seek(part, mark.offset)
        commits = self._commits(client, parts)
        self.assignment = Assignment(client, parts, commits)
        try:
            await commits.raise_limits()
        except CLIENT_ERRORS as error:
            log.info("group %s: first commit: %s", self._interest.group, described(error))
            self._health.refused(error)
            await asyncio.sleep(0.1)
            return False
        if self._fresh is not fresh:
            return False
        commits.start(self._interest.group)
        self._fresh = None
        self._health.got_on()
        self._health.trouble = None
        self.settled.set()
        return True

    def _commits(self, client: AIOKafkaConsumer, parts: Sequence[Assigned]) -> Commits:
        return Commits(
            client,
            parts,
            ahead=4 * self._interest.max_in_flight,
            every_seconds=self._config.commit_seconds,
            where=self._where,
            refused=self._health.refused,
        )

    # giving back

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What runs ends, its verdicts are committed; only then the group goes on."""
        self.settled.clear()
        self._health.got_on()
        lost = self._let_go()
        async with self._handing_over:
            await self._tell(lost)
            await self._hand_over(REVOKED_COMMIT_SECONDS)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Heartbeats rest while this runs: only note it (T16)."""
        self.rebalances += 1
        self._fresh = frozenset(assigned)

    async def _give_up(self) -> None:
        """The client is of no use: nothing can be committed, somebody else may get it all."""
        lost = self._let_go()
        async with self._handing_over:
            await self._tell(lost)
            now, self.assignment = self.assignment, None
            if now is not None:
                await now.abandon()
            self._intake.void()

    def _let_go(self) -> Sequence[KafkaDelivery]:
        """Nothing is fetched any more; what was handed out is for whoever comes next."""
        self._fresh = None
        if self.assignment is not None:
            self.assignment.is_over = True
        return self._intake.lose()

    async def _hand_over(self, seconds: float) -> None:
        now, self.assignment = self.assignment, None
        if now is not None:
            await now.finish(seconds)
        self._intake.void()

    async def _tell(self, lost: Sequence[KafkaDelivery]) -> None:
        """In a task of its own, which ends with this member, and at the deadline."""
        if not lost or self._is_leaving:
            return
        seconds = max(1.0, self._config.rebalance_seconds - REVOKE_ROOM_SECONDS)
        deadline = asyncio.get_running_loop().time() + seconds
        self._telling = asyncio.create_task(
            self._call_on_lost(lost, deadline), name=f"on-lost:{self._interest.group}"
        )
        await asyncio.wait([self._telling], timeout=seconds)
        await end([self._telling])

    async def _call_on_lost(self, lost: Sequence[KafkaDelivery], deadline: float) -> None:
        try:
            await self._on_lost(lost, deadline)
        except Exception:  # the group goes on without this member's answer
            log.exception("on_lost of group %s failed", self._interest.group)

    async def leave(self) -> None:
        """The last commit, within seconds; then the client goes, and `keep_up` ends by itself."""
        self._is_leaving = True
        self._let_go()
        self._intake.room.set()
        if self._telling is not None and not self._telling.done():
            self._telling.cancel()
        try:
            async with asyncio.timeout(LAST_COMMIT_SECONDS * 2):
                async with self._handing_over:
                    await self._hand_over(LAST_COMMIT_SECONDS)
        except TimeoutError:
            log.warning("group %s: leaving without a last commit", self._interest.group)
        await self.discard()

    async def discard(self) -> None:
        """Stop the client, if there is one; whoever comes meanwhile waits for the same end."""
        client, self.client = self.client, None
        if client is not None:
            self._discarding = asyncio.create_task(
                stop_consumer(client, STOP_SECONDS), name=f"leave:{self._interest.group}"
            )
        if self._discarding is not None:
            await asyncio.wait([self._discarding])

    def close(self) -> None:
        """No verdict counts any more."""
        now, self.assignment = self.assignment, None
        if now is not None:
            now.close()
        self._intake.void()
