"""KafkaTransport: the contract on a cluster; owns the clients, rebuilds rather than repairs."""

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Literal, Self

from aiokafka import TopicPartition

from eventbus.errors import Finding, TransportError
from eventbus.message import Message
from eventbus.service import end
from eventbus.transport import Capabilities, Change, Interest, OnLost, Place
from eventbus_kafka.addresses import KafkaAddresses
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import KafkaDelivery
from eventbus_kafka.history import History
from eventbus_kafka.membership import REVOKE_ROOM_SECONDS
from eventbus_kafka.publisher import Publisher
from eventbus_kafka.subscription import KafkaSubscription
from eventbus_kafka.topics import Topics

log: logging.Logger = logging.getLogger("eventbus.kafka")

CLOSE_SECONDS = 12.0
COUNT_SECONDS = 60.0


class KafkaTransport:
    """Publishes to a cluster and subscribes there.

    Implements `Transport`, `HasTopology`, `HasHistory` and `Browsable`. It may be entered
    again after it was left.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.config: KafkaConfig = config
        self._capabilities = Capabilities(
            durable=True,
            ordered_by_key=True,
            consumer_groups=True,
            replays_history=True,
            filters_types=False,
            stops_at_refusal=True,
            max_body=config.max_body,
        )
        self._control: Control | None = None
        self._topics: Topics | None = None
        self._publisher: Publisher | None = None
        self._members: list[KafkaSubscription] = []
        self._counting: asyncio.Task[None] | None = None
        self._moved: str | None = None
        self._renewed = 0  # by members that have left

    @property
    def capabilities(self) -> Capabilities:
        """Of every cluster; `max_body` by configuration."""
        return self._capabilities

    @property
    def addresses(self) -> KafkaAddresses:
        """Where others find what travels."""
        return KafkaAddresses(self.config)

    @property
    def trouble(self) -> str | None:
        """What the cluster, the producer or a group says is wrong; the first of it."""
        if self._control is None or self._publisher is None:
            return "not entered"
        members = (member.trouble for member in self._members if not member.is_left)
        causes = (self._control.trouble, self._publisher.trouble, self._moved, *members)
        return next((cause for cause in causes if cause is not None), None)

    @property
    def rebuilds(self) -> int:
        """How often the producer or a group's consumer was thrown away, since it was entered."""
        published = 0 if self._publisher is None else self._publisher.rebuilds
        return published + self._renewed + sum(member.renewed for member in self._members)

    async def __aenter__(self) -> Self:
        """Connect, within `connect_seconds`.

        Raises:
            TransportError: EB2001, the cluster cannot be reached; EB2302, it refuses us; EB2105,
                entered already.
        """
        if self._control is not None:
            raise self._unusable("the transport is entered already", "it belongs to one bus")
        control = Control(self.config)
        topics = Topics(self.config, control)
        publisher = Publisher(self.config, topics.ensure)
        try:
            await control.start()
            await publisher.start()
        except BaseException:
            await publisher.stop()
            await control.stop()
            raise
        self._control, self._topics, self._publisher = control, topics, publisher
        self._counting = asyncio.create_task(self._count(), name="partitions:kafka")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        control, publisher = self._control, self._publisher
        if control is None or publisher is None:
            return
        self._control = self._publisher = self._topics = None
        members, self._members, self._renewed = self._members, [], 0
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(member.leave() for member in members))
        except TimeoutError:
            log.exception("groups of Kafka were left without an answer")
        finally:
            if self._counting is not None:
                await end([self._counting])
            await publisher.stop()
            await control.stop()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once all in-sync replicas hold all of them, each partition in the order given.

        A partition stops at its first refused or unknown message of the call: what is behind it
        there is `NotSent`; other partitions go on.

        Raises:
            PublishError: EB2101, the broker refused one; EB2102, one is larger than `max_body`;
                EB2106, not sent in time.
            PublishUnknownError: EB2104, no confirmation within `publish_seconds`.
            TransportError: EB2105, not entered.
        """
        publisher = self._publisher
        if publisher is None:
            raise self._unusable("the transport is not entered", "it publishes while entered only")
        await publisher.publish(messages)

    def subscribe(self, interest: Interest, *, on_lost: OnLost) -> KafkaSubscription:
        """Join the group on entering; leaving gives back every delivery without a verdict.

        Raises:
            TransportError: EB2105, not entered.
        """
        if self._control is None:
            raise self._unusable("the transport is not entered", "it subscribes while entered only")
        member = KafkaSubscription(self.config, self._control, interest, on_lost)
        self._renewed += sum(known.renewed for known in self._members if known.is_left)
        self._members = [known for known in self._members if not known.is_left]
        self._members.append(member)
        return member

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """Time-outs and the C parser; once entered, topics and their settings too.

        With `provision=true` topics that are missing are made first.
        """
        findings = [*self._timeouts(interests), *_parser()]
        if self._topics is not None:
            try:
                if self.config.provision:
                    plan = await self._topics.plan(interests)
                    await self._topics.apply([each for each in plan if not each.destructive])
                findings += await self._topics.findings(interests)
            except TransportError as error:
                findings.append(
                    Finding(
                        level="warn",
                        code=error.code,
                        what="Kafka does not say how the topics are set",
                        why=error.why,
                        next=error.next,
                    )
                )
        return findings

    async def plan(self, interests: Sequence[Interest]) -> Sequence[Change]:
        """The topics that are missing, and how they would be made; nothing is changed.

        Raises:
            TransportError: EB2001, EB2302; EB2105, not entered.
        """
        return await self._entered_topics().plan(interests)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make what `plan` answered; returns when the cluster knows it.

        Raises:
            TransportError: EB2001, EB2302; EB2105, not entered; EB2303, a change is destructive;
                EB2314, refused.
        """
        await self._entered_topics().apply(changes)

    async def status(self, interests: Sequence[Interest]) -> Sequence[Place]:
        """The topics of the groups; those of dead letters too, if they go to the broker.

        Raises:
            TransportError: EB2001, EB2302; EB2105, not entered.
        """
        return await self._entered_topics().status(interests)

    async def replay(
        self,
        topics: Sequence[str],
        *,
        start: datetime | Literal["first"],
        stop: datetime | Literal["now"],
    ) -> AsyncGenerator[Sequence[KafkaDelivery], None]:
        """What the cluster holds between two times (of the records), bounded when it begins.

        Raises:
            ConfigurationError: EB1006, a time without a zone.
            TransportError: EB2301, no such topic; EB2001, EB2302, EB2306; EB2105, not entered.
        """
        history = self._history()
        async with aclosing(history.read(await history.bounds(topics, start, stop))) as batches:
            async for batch in batches:
                yield batch

    async def replay_offsets(
        self, spans: Mapping[str, range]
    ) -> AsyncGenerator[Sequence[KafkaDelivery], None]:
        """The same by offsets: `{"shop/3": range(1000, 2000)}`, as `Delivery` names them."""
        parts = {}
        for name, span in spans.items():
            topic, _, number = name.rpartition("/")
            parts[TopicPartition(topic, int(number))] = span
        async with aclosing(self._history().read(parts)) as batches:
            async for batch in batches:
                yield batch

    async def browse(self, place: str, *, limit: int) -> Sequence[KafkaDelivery]:
        """The first records of a topic, per partition in order; no group notices.

        Raises:
            TransportError: as `replay` does.
        """
        seen: list[KafkaDelivery] = []
        async with aclosing(self.replay([place], start="first", stop="now")) as batches:
            async for batch in batches:
                seen += batch
                if len(seen) >= limit:
                    break
        return seen[:limit]

    def _history(self) -> History:
        if self._control is None:
            raise self._unusable("the transport is not entered", "it replays while entered only")
        return History(self.config, self._control, self._entered_topics())

    def _entered_topics(self) -> Topics:
        if self._topics is None:
            raise self._unusable("the transport is not entered", "nobody can be asked for topics")
        return self._topics

    def _timeouts(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        most = self.config.rebalance_seconds - REVOKE_ROOM_SECONDS
        return [
            Finding(
                level="refuse",
                code="EB2305",
                what=f"group {each.group!r}: its timeout of {each.timeout.total_seconds():g} s "
                f"does not fit into rebalance_seconds {self.config.rebalance_seconds:g}",
                why="when members change, what runs must end before the group goes on without it",
                next=f"a timeout of at most {most:g} s, or a larger rebalance_seconds",
            )
            for each in interests
            if each.timeout.total_seconds() > most
        ]

    async def _count(self) -> None:
        """A changed partition count moves keys: say so."""
        seen: dict[str, int] = {}
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            names = {topic for member in self._members for topic in member.interest.topics}
            if self._publisher is not None:
                names |= set(self._publisher.partitions)
            try:
                found = await self._topics.find(sorted(names)) if self._topics else {}
            except TransportError as error:
                log.info("partition counts: %s", error.why)
                continue
            for name, topic in found.items():
                before = seen.setdefault(name, topic.partitions)
                if before != topic.partitions:
                    self._moved = f"topic {name!r} went from {before} to {topic.partitions} "
                    self._moved += "partitions: keys have moved (EB2303)"
                    log.error("%s", self._moved)

    def _unusable(self, what: str, why: str) -> TransportError:
        return TransportError(
            "EB2105",
            what,
            where=self.config.where,
            why=why,
            next="async with the transport, or the bus that owns it",
        )


def _parser() -> Sequence[Finding]:
    """Say so when it is missing: the client falls back to Python without a word."""
    try:
        importlib.import_module("aiokafka.record._crecords")
    except ImportError:
        return [
            Finding(
                level="warn",
                code="EB2313",
                what="the C parser of aiokafka is not there",
                why="records are read and written in Python: several times slower",
                next="install a wheel of aiokafka for this platform",
            )
        ]
    return []


def open_transport(url: str, service: str) -> KafkaTransport:
    """`kafka://…`, see `KafkaConfig.from_url`; connects to nothing.

    Raises:
        ConfigurationError: EB1006; EB2304, EB2305, unsafe.
    """
    return KafkaTransport(KafkaConfig.from_url(url, service))
