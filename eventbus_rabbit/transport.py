"""RabbitTransport: the contract on RabbitMQ (`amqp://`, `amqps://`, `rabbit://`)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from aiormq.channel import Channel

from eventbus.errors import Finding, TransportError
from eventbus.message import Message
from eventbus.transport import Capabilities, Change, Delivery, Interest, OnLost, Place
from eventbus_rabbit import browsing, topology
from eventbus_rabbit.addresses import RabbitAddresses
from eventbus_rabbit.browsing import Seen
from eventbus_rabbit.config import RabbitConfig
from eventbus_rabbit.connection import Link
from eventbus_rabbit.errors import BrokenError, RefusedError, public
from eventbus_rabbit.examination import examined, refused
from eventbus_rabbit.publisher import Publisher
from eventbus_rabbit.subscription import RabbitSubscription

log: logging.Logger = logging.getLogger("eventbus.rabbit")

PUBLISHED_SECONDS = 2.0


class RabbitTransport:
    """Publishes by confirms, consumes quorum queues; two connections, thrown away when they break.

    Implements `Transport`, `HasTopology`, `Browsable` and `Takeable`. Entering it again after it
    was left is allowed.
    """

    def __init__(self, config: RabbitConfig | None = None) -> None:
        self.config: RabbitConfig = config or RabbitConfig()
        self._capabilities = Capabilities(
            durable=True,
            ordered_by_key=True,
            consumer_groups=True,
            replays_history=False,
            filters_types=True,
            stops_at_refusal=False,
            max_body=self.config.max_body,
        )
        self._publishing = Link(self.config, "publishing")
        self._consuming = Link(self.config, "consuming")
        self._publisher: Publisher | None = None
        self._members: list[RabbitSubscription] = []
        self._entered = False
        self._known: set[str] = set()  # exchanges that are there: one declaration per connection
        self._hashes = False  # the plugin of shards is known to be there

    @property
    def capabilities(self) -> Capabilities:
        """A queue begins with its group: no history; bindings filter types."""
        return self._capabilities

    @property
    def addresses(self) -> RabbitAddresses:
        """Where others find what travels."""
        return RabbitAddresses(self.config)

    @property
    def trouble(self) -> str | None:
        """Not entered; a connection or a consumer is missing; publishers are blocked."""
        if not self._entered or self._publisher is None:
            return "not entered"
        return (
            self._publishing.trouble
            or self._consuming.trouble
            or self._publisher.trouble
            or next(
                (each.trouble for each in self._members if each.trouble and not each.left), None
            )
        )

    @property
    def rebuilds(self) -> int:
        """How often a connection was thrown away and is back, ever."""
        return self._publishing.rebuilds + self._consuming.rebuilds

    async def __aenter__(self) -> Self:
        if self._entered:
            raise TransportError(
                "EB2105",
                "the transport is entered already",
                where="RabbitTransport",
                why="it belongs to one bus at a time",
                next="give each bus a RabbitTransport of its own",
            )
        publisher = Publisher(self.config, self._publishing, self._known)
        try:
            await self._publishing.open()
            await self._consuming.open()
            await publisher.open()
        except (BrokenError, RefusedError) as error:
            await self._close(publisher, 0.0)
            raise public(error, self.config.place) from error
        except BaseException:
            await self._close(publisher, 0.0)
            raise
        self._publisher = publisher
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        publisher, self._publisher = self._publisher, None
        self._entered = False
        members, self._members = self._members, []
        try:
            await asyncio.gather(*(member.leave() for member in members))
        finally:
            if publisher is not None:
                await self._close(publisher, PUBLISHED_SECONDS)

    async def _close(self, publisher: Publisher, seconds: float) -> None:
        try:
            await publisher.close(seconds)
        finally:
            await asyncio.gather(self._publishing.close(), self._consuming.close())

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker holds each of them in a quorum queue, in the order given.

        A refused one does not stop those behind it; an unknown one does.

        Raises:
            PublishError: EB2101, one was refused or has no queue; EB2102, one is larger than
                `max_body`; EB2106, nothing is wrong with what was not sent.
            PublishUnknownError: EB2104, not confirmed in time, or the connection broke.
            TransportError: EB2105, not entered.
        """
        if self._publisher is None:
            raise not_entered()
        await self._publisher.publish(messages)

    def subscribe(self, interest: Interest, *, on_lost: OnLost) -> RabbitSubscription:
        """Declare what the group needs and consume, on entering.

        Raises:
            TransportError: EB2105, not entered; on entering EB2001, no broker; EB2202 to EB2206,
                the broker refused.
        """
        if not self._entered:
            raise not_entered()
        member = RabbitSubscription(self.config, self._consuming, interest, on_lost, self._known)
        self._members = [known for known in self._members if not known.left]
        self._members.append(member)
        return member

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """What the configuration means; if entered, also what the broker says to the topology.

        Entered, it makes the queues of these groups, unless `declare` is off: what is published
        from now on waits there for them.
        """
        findings = list(examined(self.config, interests))
        if self._entered:
            for interest in interests:
                try:
                    await self._make(topology.topology_of(interest, self.config))
                except RefusedError as error:
                    findings.append(refused(interest, error))
                except BrokenError as error:
                    log.warning("examining group %s: %s", interest.group, error)
        return findings

    async def _make(self, needed: topology.Topology) -> None:
        await self._check_plugin(needed)

        async def make(channel: Channel) -> None:
            await topology.declare(channel, needed, passive=not self.config.declare)

        await self._consuming.on_channel(make)
        self._known.update(needed.targets)

    async def _check_plugin(self, needed: topology.Topology) -> None:
        """On a connection of its own: without the plugin the broker closes it whole (measured)."""
        if (hashed := needed.hashed) is None or self._hashes or not self.config.declare:
            return

        async def ask(channel: Channel) -> None:
            await topology.declare_exchange(channel, hashed)

        await self._consuming.try_out(ask)
        self._hashes = True

    async def browse(self, place: str, *, limit: int) -> Sequence[Seen]:
        """The first messages of a queue; they are with it again when this returns.

        A quorum queue counts each look as a delivery: one with a delivery limit moves on what was
        looked at that often.

        Raises:
            TransportError: EB2105, not entered; EB2205, no such queue; EB2206, others use it alone;
                the broker does not answer, or refuses to.
        """
        if not self._entered:
            raise not_entered()
        try:
            return await browsing.browse(self._consuming, place, limit, self.config.foreign)
        except (BrokenError, RefusedError) as error:
            raise public(error, self.config.place) from error

    async def take(
        self, place: str, *, limit: int, wanted: Callable[[Delivery], Awaitable[bool]]
    ) -> None:
        """Take away what is wanted of the first messages of a queue; the rest stays, in order.

        Raises:
            TransportError: as `browse` does.
        """
        if not self._entered:
            raise not_entered()
        try:
            await browsing.take(self._consuming, place, limit, self.config.foreign, wanted)
        except (BrokenError, RefusedError) as error:
            raise public(error, self.config.place) from error

    async def plan(self, interests: Sequence[Interest]) -> Sequence[Change]:
        """Exchanges and queues that are missing or different, dead letters included.

        Bindings come with their queue: AMQP does not show them.

        Raises:
            TransportError: EB2105, not entered; the broker does not answer, or refuses to.
        """
        if not self._entered:
            raise not_entered()
        try:
            return await topology.plan(
                self._consuming, [topology.topology_of(each, self.config) for each in interests]
            )
        except (BrokenError, RefusedError) as error:
            raise public(error, self.config.place) from error

    async def status(self, interests: Sequence[Interest]) -> Sequence[Place]:
        """Exchanges and queues of the groups, and what waits there. Raises as `plan` does."""
        if not self._entered:
            raise not_entered()
        try:
            return await topology.status(
                self._consuming, [topology.topology_of(each, self.config) for each in interests]
            )
        except (BrokenError, RefusedError) as error:
            raise public(error, self.config.place) from error

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make what a plan lists; nothing at all if one of the changes is destructive.

        Raises:
            TransportError: EB2105, not entered; EB2202, a change is destructive, or the broker
                refused; it does not answer.
        """
        if not self._entered:
            raise not_entered()
        try:
            for each in changes:
                if isinstance(each, topology.RabbitChange) and not each.destructive:
                    await self._check_plugin(each.topology)
            await topology.apply(self._consuming, changes)
        except (BrokenError, RefusedError) as error:
            raise public(error, self.config.place) from error


def not_entered() -> TransportError:
    """EB2105."""
    return TransportError(
        "EB2105",
        "the transport is not entered",
        where="RabbitTransport",
        why="it publishes and subscribes between entering and leaving only",
        next="async with the transport, or the bus that owns it",
    )


def open_transport(url: str, service: str) -> RabbitTransport:
    """`amqp://`, `amqps://` or `rabbit://`; see `RabbitConfig.from_url`. Connects to nothing.

    Raises:
        ConfigurationError: EB1006, an option is not known or its value cannot be used.
    """
    return RabbitTransport(RabbitConfig.from_url(url, service))
