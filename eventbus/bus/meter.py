"""What no message tells: lag at the broker, circuits, rebalances, clients that were built anew."""

import asyncio
from collections.abc import Callable, Mapping

from eventbus.errors import TransportError
from eventbus.instrumentation import Instrumentation
from eventbus.pubsub.assembly import GroupServices
from eventbus.pubsub.consumer import Consumer
from eventbus.service import pause
from eventbus.transport import Rebalancing, Rebuilding, Subscription, Transport

ANSWER_SECONDS = 10.0


class Meter:
    """A service that reports it when it begins, and then every 15 s.

    While the broker does not say how much waits the last value stays.
    """

    def __init__(
        self,
        transport: Transport,
        groups: Callable[[], Mapping[str, GroupServices]],
        instrumentation: Instrumentation,
        *,
        scheme: str,
        every_seconds: float = 15.0,
    ) -> None:
        self._transport = transport
        self._groups = groups
        self._instrumentation = instrumentation
        self._scheme = scheme
        self._every_seconds = every_seconds
        self._rebuilds = _rebuilds(transport)
        self._rebalances: dict[str, tuple[Subscription, int]] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Report until `stopping` is set."""
        while True:
            await self.report()
            if await pause(stopping, self._every_seconds):
                return

    async def report(self) -> None:
        """Report once."""
        self._report_clients()
        for name, group in self._groups().items():
            self._instrumentation.gauge("circuit_state", group.circuit_state, group=name)
            consumer = group.consumer
            if (subscription := consumer.subscription) is not None:
                self._report_rebalances(name, subscription)
                await self._report_lag(consumer, subscription)

    def _report_clients(self) -> None:
        before, self._rebuilds = self._rebuilds, _rebuilds(self._transport)
        if self._rebuilds > before:
            self._instrumentation.count(
                "client_rebuilds_total", self._rebuilds - before, transport=self._scheme
            )

    def _report_rebalances(self, group: str, subscription: Subscription) -> None:
        """A subscription begins at 0; the group may have had another one before."""
        if not isinstance(subscription, Rebalancing):
            return
        known, before = self._rebalances.get(group, (subscription, 0))
        before = before if known is subscription else 0
        now = subscription.rebalances
        self._rebalances[group] = subscription, now
        if now > before:
            self._instrumentation.count("rebalances_total", now - before, group=group)

    async def _report_lag(self, consumer: Consumer, subscription: Subscription) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                waiting = await subscription.backlog()
        except (TransportError, TimeoutError):
            return
        if waiting is not None:
            topics = ",".join(consumer.topics)
            self._instrumentation.gauge(
                "consumer_lag_messages", waiting, topic=topics, group=consumer.group.name
            )


def _rebuilds(transport: Transport) -> int:
    return transport.rebuilds if isinstance(transport, Rebuilding) else 0
