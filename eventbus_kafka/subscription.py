"""A subscription as the pipeline sees it: entered and left, deliveries, verdicts, backlog."""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

from eventbus.errors import TransportError
from eventbus.service import end
from eventbus.transport import Delivery, Interest, OnLost
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import KafkaDelivery
from eventbus_kafka.errors import CLIENT_ERRORS
from eventbus_kafka.health import Health
from eventbus_kafka.intake import Intake
from eventbus_kafka.mapping import Mapper
from eventbus_kafka.membership import Membership
from eventbus_kafka.silence import SilenceWatch

log: logging.Logger = logging.getLogger("eventbus.kafka")

ENTER_SECONDS = 4.0  # entering waits so long for an assignment, then goes on joining
FLUSH_SECONDS = 10.0


class KafkaSubscription:
    """Joins on entering, leaves on exit; a new client whenever the old one is of no use."""

    def __init__(
        self,
        config: KafkaConfig,
        control: Control,
        interest: Interest,
        on_lost: OnLost,
    ) -> None:
        self.interest = interest
        self.is_left: bool = False
        self._where = f"group {interest.group}, {config.where}"
        self._intake = Intake(
            Mapper(config.cluster_name, config.foreign),
            max_in_flight=interest.max_in_flight,
            max_bytes=config.max_held_bytes,
        )
        self._health = Health(config, interest.group, self._wake)
        self._membership = Membership(
            config, control, interest, on_lost=on_lost, intake=self._intake, health=self._health
        )
        self._silence = SilenceWatch(
            config,
            control,
            interest.group,
            membership=self._membership,
            intake=self._intake,
            health=self._health,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """What is wrong, if anything is."""
        return self._health.trouble

    @property
    def rebalances(self) -> int:
        """How often partitions were assigned."""
        return self._membership.rebalances

    @property
    def rebuilds(self) -> int:
        """How often a silent client was replaced."""
        return self._silence.rebuilds

    @property
    def renewed(self) -> int:
        """How often a client was followed by another one, whatever its end."""
        return max(0, self._membership.clients - 1)

    @property
    def late(self) -> int:
        """Verdicts that came twice, or too late."""
        return self._intake.late

    async def __aenter__(self) -> Self:
        if self._tasks or self.is_left:
            raise TransportError(
                "EB2105",
                "the subscription was entered before, or its transport is closed",
                where=self._where,
                why="a member joins once",
                next="subscribe again",
            )
        group, member = self.interest.group, self._membership
        self._tasks = [
            asyncio.create_task(member.keep_up(), name=f"poll:{group}"),
            asyncio.create_task(self._silence.run(), name=f"progress:{group}"),
        ]
        try:
            async with asyncio.timeout(ENTER_SECONDS):
                await member.settled.wait()
        except TimeoutError:
            log.info("group %s: still joining", group)
        except BaseException:
            await self.leave()
            raise
        if self._health.failed is not None:
            await self.leave()
            raise self._health.failed
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
        if self._membership.is_telling():
            return  # whoever is told of a loss cannot wait for the telling to end
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        self._intake.something.set()
        await self._membership.leave()
        await end(self._tasks)
        await self._membership.discard()
        self._membership.close()
        self.is_left = True

    def _wake(self) -> None:
        """Whoever waits finds out that it has failed."""
        self._membership.settled.set()
        self._intake.something.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        while True:
            if self._leaving is not None:
                raise StopAsyncIteration
            if self._health.failed is not None:
                raise self._health.failed
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
            self._health.got_on()
            if (now := self._membership.assignment) is not None:
                now.commits.verdicts(len(counted))

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Comes again when this member has left: nothing of its partition may overtake it."""
        for delivery in self._intake.settle(cast("Sequence[KafkaDelivery]", deliveries)):
            self._intake.halt(delivery.assigned, "a message was given back")

    async def flush(self) -> None:
        """Return when every recorded verdict is with the broker; always lets others run.

        Raises:
            TransportError: EB2312, it was not within 10 s; the messages come again.
        """
        await asyncio.sleep(0)
        now = self._membership.assignment
        if now is None:
            return
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await now.commits.flush()
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
        now = self._membership.current()
        if now is None:
            return None
        try:
            return await now.backlog()
        except CLIENT_ERRORS:
            return None
