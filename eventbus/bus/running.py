"""What exists while a bus is entered: publishers, relay, groups, and who keeps them up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from eventbus.bus.afterwards import Afterwards
from eventbus.bus.meter import Meter
from eventbus.bus.report import Health
from eventbus.bus.sagas import SagaServices, housekeeping, saga_services
from eventbus.bus.selection import is_of_a_group, selected
from eventbus.bus.tuning import Tuning
from eventbus.codec import Registry
from eventbus.handler import Fence, Middleware
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.outbox.relay import Relay
from eventbus.pubsub.assembly import Assembly, GroupServices
from eventbus.pubsub.publisher import DirectPublisher, OutboxPublisher
from eventbus.pubsub.retention import Retention
from eventbus.pubsub.routes import Routes
from eventbus.pubsub.unit_of_work import Publishing
from eventbus.saga.engine import Engine
from eventbus.service import Service, end, supervise
from eventbus.sourcing.arrivals import Arrivals
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.following import Following
from eventbus.sourcing.tail import Tail
from eventbus.storage import Storage
from eventbus.transport import Transport

log: logging.Logger = logging.getLogger("eventbus.bus")

SHORTEST_LOOK_SECONDS = 0.002  # whether everything is idle; a look may ask the database
LONGEST_LOOK_SECONDS = 0.02  # while nothing moves
PAUSED_SECONDS = 1.0  # without progress: a group that is paused is not waited for
RELAY_SECONDS = 4.0  # of the grace: to settle its batch and release its leases, after the groups
STUCK_SECONDS = 300.0  # work and no progress for so long: a restart is the cure (B8)


Publish = Callable[[Message, timedelta | None], Awaitable[None]]
"""Through the outbox; without a storage straight to the broker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a bus was assembled from."""

    transport: Transport
    storage: Storage | None
    groups: Mapping[str, Routes]
    registry: Registry
    publishing: Publishing
    afterwards: Afterwards
    projections: Mapping[str, Definition]
    engines: Mapping[str, Engine]
    tail: Tail | None
    arrivals: Arrivals
    middleware: Sequence[Middleware]
    instrumentation: Instrumentation | None
    scheme: str
    tuning: Tuning
    fence: Fence | None


class Running:
    """Publishes; once started, consumes, redelivers and relays until stopped."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stopping = asyncio.Event()
        self._groups_ended = asyncio.Event()
        self._supervisors: list[asyncio.Task[None]] = []
        self._measuring: list[asyncio.Task[None]] = []
        self._relay: Relay | None = None
        self._groups: dict[str, GroupServices] = {}
        self._following: dict[str, Following] = {}
        self._sagas: dict[str, SagaServices] = {}
        self._draining = False
        self._progressed = (-1, 0.0)
        self._outbox: OutboxPublisher | None = None
        if parts.storage is not None:
            self._outbox = OutboxPublisher(parts.storage, parts.instrumentation)
            self.publish: Publish = self._outbox.publish
        else:
            self.publish = DirectPublisher(
                parts.transport, scheme=parts.scheme, instrumentation=parts.instrumentation
            ).publish

    @property
    def needs_the_broker(self) -> bool:
        """Whether publishing does: the outbox takes what is published while it is away."""
        return self._outbox is None or not self._parts.transport.capabilities.durable

    def measure(self) -> None:
        """Report what no message tells, from now until it is stopped."""
        parts = self._parts
        if parts.instrumentation is not None:
            meter = Meter(
                parts.transport, lambda: self._groups, parts.instrumentation, scheme=parts.scheme
            )
            task = supervise({"meter:0": meter}, self._stopping)
            self._measuring = [asyncio.create_task(task, name="bus:meter")]

    async def start(self, only: Collection[str] | None) -> None:
        """Start what is chosen, and wait for its subscriptions."""
        services = selected(self._services(), only)
        groups = {name: each for name, each in services.items() if is_of_a_group(name)}
        others = {name: each for name, each in services.items() if name not in groups}
        self._supervisors = [
            asyncio.create_task(supervise(some, stop), name=f"bus:{what}")
            for what, some, stop in (
                ("groups", groups, self._stopping),
                ("others", others, self._groups_ended),
            )
        ]
        await self._until_subscribed(services)

    async def rest(self, *, or_paused: bool = False) -> None:
        """Return when idle twice in a row without progress in between.

        `or_paused`: also when nothing moves because groups are paused.
        """
        loop = asyncio.get_running_loop()
        before, since, pause = -1, loop.time(), SHORTEST_LOOK_SECONDS
        while True:
            progress = self._progress()
            if await self._is_idle() and progress == before:
                return
            if progress != before:
                before, since, pause = progress, loop.time(), SHORTEST_LOOK_SECONDS
            elif or_paused and loop.time() - since > PAUSED_SECONDS and self._is_paused():
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_LOOK_SECONDS)

    async def work_off(self, grace: timedelta) -> None:
        """What a transport that is not durable holds would be gone: let it be handled first."""
        if not self._supervisors or self._parts.transport.capabilities.durable:
            return
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self.rest(or_paused=True)
        except TimeoutError:
            log.warning("left before everything on its way was worked off: %s passed", grace)

    async def stop(self, grace: timedelta) -> bool:
        """Soft stop, and the hard one when the grace is used up; True: nothing was cut."""
        self._draining = True
        await end(self._measuring)
        if self._outbox is not None:
            await self._outbox.drain()
        self._stopping.set()
        supervisors, self._supervisors = self._supervisors, []
        if not supervisors:
            return True
        # Groups first: the relay still settles what they finish meanwhile.
        seconds = grace.total_seconds()
        seconds -= min(RELAY_SECONDS + 1, seconds / 5)
        done, _ = await asyncio.wait(supervisors[:1], timeout=seconds)
        if not done:
            log.error("the grace of %s is used up: what still runs is cancelled", grace)
        ended = await end(supervisors[:1])
        self._groups_ended.set()
        await asyncio.wait(supervisors[1:], timeout=RELAY_SECONDS)
        ended = await end(supervisors[1:]) and ended
        for group in self._groups.values():
            group.close()
        return ended and bool(done)

    async def health(self) -> Health:
        """Whether it lives and is ready, and if not, why."""
        services = {
            name: status
            for group in self._groups.values()
            for name, status in group.status().items()
        } | {name: each.state for name, each in self._following.items()}
        causes = [cause for cause in self._troubles() if cause]
        live = bool(causes) or not await self._is_stuck()
        if not live:
            causes.append(f"work and no progress for {STUCK_SECONDS:g} s")
        if self._draining:
            causes.append("draining")
        elif not self._supervisors:
            causes.append("not running")
        return Health(live=live, ready=not causes, causes=causes, services=services)

    def _services(self) -> dict[str, Service]:
        parts = self._parts
        assembly = Assembly(
            transport=parts.transport,
            storage=parts.storage,
            registry=parts.registry,
            publishing=parts.publishing,
            middleware=parts.middleware,
            instrumentation=parts.instrumentation,
            scheme=parts.scheme,
            random=Random(),  # noqa: S311 - jitter
            fence=parts.fence,
        )
        self._groups = {name: assembly.group(routes) for name, routes in parts.groups.items()}
        services: dict[str, Service] = {}
        for group in self._groups.values():
            services |= group.services
        services |= self._follow()
        if parts.storage is not None:
            services["relay:0"] = self._relay = self._make_relay(parts.storage)
            services["retention:0"] = Retention(parts.storage)
            self._sagas = saga_services(parts.engines, parts.storage)
            for name, each in self._sagas.items():
                services |= {f"timers:{name}": each.timers, f"calls:{name}": each.calls}
            if self._sagas or parts.fence is not None:
                services["archive:0"] = housekeeping(
                    parts.engines, parts.storage, parts.instrumentation
                )
        return services

    def _follow(self) -> Mapping[str, Following]:
        parts = self._parts
        if parts.storage is None or parts.tail is None:
            return {}
        for name, definition in parts.projections.items():
            if definition.runs == "following":
                self._following[f"projection:{name}"] = Following(
                    definition,
                    parts.storage,
                    parts.registry,
                    encode=parts.publishing.within,
                    tail=parts.tail,
                    arrivals=parts.arrivals,
                    random=Random(),  # noqa: S311 - jitter
                    instrumentation=parts.instrumentation,
                )
        return self._following

    def _make_relay(self, storage: Storage) -> Relay:
        parts = self._parts
        return Relay(
            storage,
            parts.transport,
            scheme=parts.scheme,
            random=Random(),  # noqa: S311 - jitter
            batch=parts.tuning.relay_batch,
            longest_poll_seconds=parts.tuning.relay_poll.total_seconds(),
            instrumentation=parts.instrumentation,
        )

    async def _until_subscribed(self, services: Mapping[str, Service]) -> None:
        """A group that starts at the latest message must not miss the first one published here."""
        waiting = [
            group.consumer for name, group in self._groups.items() if f"consumer:{name}" in services
        ]
        try:
            async with asyncio.timeout(10):
                for consumer in waiting:
                    await consumer.subscribed.wait()
        except TimeoutError:
            log.warning("not every group is subscribed yet; /readyz says which")

    async def _is_idle(self) -> bool:
        """What is asked in the process first; the database last."""
        if self._outbox is not None and not self._outbox.is_idle:
            return False
        for group in self._groups.values():
            if not await group.consumer_idle():
                return False
        for following in self._following.values():
            if not await following.idle():
                return False
        if self._relay is not None and not await self._relay.idle():
            return False
        if not self._parts.afterwards.is_idle:
            return False
        for each in self._sagas.values():
            if not await each.idle():
                return False
        for group in self._groups.values():
            if not await group.redelivery_idle():
                return False
        return True

    def _is_paused(self) -> bool:
        following = (each.is_paused for each in self._following.values())
        return any(following) or any(group.is_paused for group in self._groups.values())

    async def _is_stuck(self) -> bool:
        """Work and no progress, although nobody paused it and nothing is in trouble."""
        now, progress = asyncio.get_running_loop().time(), self._progress()
        if progress != self._progressed[0] or self._is_paused():
            self._progressed = progress, now
        if now - self._progressed[1] < STUCK_SECONDS:
            return False
        return not all([await group.consumer_idle() for group in self._groups.values()])

    def _progress(self) -> int:
        relayed = 0 if self._relay is None else self._relay.relayed
        projected = sum(each.projected for each in self._following.values())
        projected += sum(each.progress for each in self._sagas.values())
        return relayed + projected + sum(group.progress for group in self._groups.values())

    def _troubles(self) -> Iterable[str | None]:
        if self._supervisors or self.needs_the_broker:
            yield self._parts.transport.trouble
        if self._parts.storage is not None:
            yield self._parts.storage.trouble
        if self._relay is not None:
            yield self._relay.trouble
        for group in self._groups.values():
            yield from group.troubles()
        for saga in self._sagas.values():
            yield from saga.troubles()
        for name, following in self._following.items():
            yield None if following.trouble is None else f"{name}: {following.trouble}"
