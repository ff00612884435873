"""EventBus: the facade, and the one place where rooms meet."""

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from types import ModuleType, TracebackType
from typing import Any, Self, cast, overload

from eventbus.codec import Encoder, Registry
from eventbus.errors import (
    ConfigurationError,
    Finding,
    NoTransactionError,
    UnsafeConfigurationError,
    WiringError,
)
from eventbus.event import Command, Event, Untyped
from eventbus.handler import Context, Group, Middleware, UnitOfWork
from eventbus.inspection import Inspected, Inspection, Place
from eventbus.instrumentation import Instrumentation
from eventbus.message import NO_HEADERS, Message
from eventbus.outbox.relay import BATCH, LONGEST_POLL_SECONDS, Relay
from eventbus.pubsub.assembly import Assembly, GroupServices
from eventbus.pubsub.guarantees import GRACE, Setting, findings_of
from eventbus.pubsub.publisher import DirectPublisher, OutboxPublisher
from eventbus.pubsub.retention import Retention
from eventbus.pubsub.routes import Handler, Routes, collect, group_routes, named_handler
from eventbus.pubsub.unit_of_work import (
    Publishing,
    Unit,
    check_delay,
    held,
    refuse_if_held,
    wrong_verb,
)
from eventbus.service import Service, end, supervise, until_signal
from eventbus.storage import Storage, open_storage
from eventbus.transport import Transport, open_transport

log = logging.getLogger("eventbus.bus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What /livez and /readyz answer, and why not."""

    live: bool
    ready: bool
    causes: Sequence[str]
    services: Mapping[str, str]  # "consumer:billing" -> "running", "paused by an operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the bus is made of, and what it promises: printed by `describe` and `guarantees`."""

    service: str | None
    transport: str
    storage: str | None
    groups: Mapping[str, Routes]
    types: Registry
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a worker's flags change without touching the code; None: as the code says."""

    lanes: int | None = None  # of every group
    max_in_flight: int | None = None  # of every group
    relay_batch: int = BATCH  # rows per call
    relay_poll: timedelta = timedelta(seconds=LONGEST_POLL_SECONDS)  # at the longest

    def group(self, group: Group) -> Group:
        """The group with what is changed."""
        return replace(
            group,
            lanes=self.lanes or group.lanes,
            max_in_flight=self.max_in_flight or group.max_in_flight,
        )


AS_WRITTEN = Tuning()


class DeadLetters(Place):
    """`bus.dead_letters`: a place whose messages can be edited, under the eyes of the codec."""

    def __init__(self, inspection: Inspection, registry: Registry) -> None:
        super().__init__(inspection, "dead-letter")
        self._registry = registry

    async def edit(self, id: str, payload: bytes, *, actor: str, reason: str = "") -> int:
        """Replace the body of one dead letter; the old one is kept. 1, or 0 if there is none.

        Raises:
            CodecError: the new body would be quarantined again.
        """
        for row in await self.list(ids=(id,), limit=1):
            self._registry.validate(
                Message(
                    id=id,
                    type=row["type"],
                    source=row["source"],
                    topic=row["topic"],
                    payload=payload,
                    key=row["key"],
                    headers=row["headers"],
                )
            )
        return await self.change("edit", actor=actor, reason=reason, payload=payload, ids=(id,))


class EventBus:
    """Assembled once, as data; consumers and relays run while it is entered.

    With a storage every publish goes through the outbox, so a later one cannot overtake an earlier
    one of its key; without one it returns once the broker confirmed. Entering upgrades the schema
    on SQLite; on PostgreSQL it checks and names the command. Leaving drains (B10); what a transport
    that is not durable holds is worked off first. Reading knows the message classes named by what
    is handed over and those defined in handed-over modules; publishing needs none.

    Args:
        transport: a URL (`memory://`), or a transport.
        storage: a URL (`sqlite:///app.db`, `sqlite://`), a storage, or None.
        handlers: handlers, objects with marked methods, or the modules that hold them.
        middleware: wrapped around each call of a handler, the first one outermost.
        instrumentation: what counts, times and traces.
        service: CloudEvents source, and default group of the untyped form.
        strict: warnings of the guarantee report refuse too, and only known types are published.

    Raises:
        WiringError: what was handed over does not fit together.
        ConfigurationError: no adapter for a URL.
    """

    def __init__(
        self,
        transport: str | Transport,
        *,
        storage: str | Storage | None = None,
        handlers: Iterable[Callable[..., Any] | type | object | ModuleType] = (),
        middleware: Sequence[Middleware] = (),
        instrumentation: Instrumentation | None = None,
        service: str | None = None,
        strict: bool = False,
    ) -> None:
        self._given = (transport, storage)
        self._service = service
        self._strict = strict
        self._middleware = tuple(middleware)
        self._instrumentation = instrumentation
        name = service or "local"
        self._transport = (
            open_transport(transport, name) if isinstance(transport, str) else transport
        )
        self._storage = open_storage(storage, name) if isinstance(storage, str) else storage
        self._scheme = scheme_of(transport)
        self._things = tuple(handlers)
        self._handlers, self._registry = collect(self._things)
        self._named: list[Handler] = []
        self._tuning = AS_WRITTEN
        self._groups = self._grouped()
        encoder = Encoder(
            f"/{name}",
            max_body=self._transport.capabilities.max_body,
            registry=self._registry if strict else None,
        )
        self._publishing = Publishing(encoder, instrumentation)
        self._outbox: OutboxPublisher | None = None
        self._direct: DirectPublisher | None = None
        self._relay: Relay | None = None
        self._running: dict[str, GroupServices] = {}
        self._stack: AsyncExitStack | None = None
        self._stopping = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._draining = False
        self._drained = True

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._enter(consume=True, only=None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._leave(work_off=error is None, grace=GRACE)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Self]:
        """Enter for publishing and reading only; consumes, relays and projects nothing."""
        await self._enter(consume=False, only=None)
        try:
            yield self
        finally:
            await self._leave(work_off=False, grace=GRACE)

    def replace(
        self,
        *,
        transport: str | Transport | None = None,
        storage: str | Storage | None = None,
        middleware: Sequence[Middleware] = (),
        instrumentation: Instrumentation | None = None,
        tuning: Tuning = AS_WRITTEN,
    ) -> Self:
        """A copy, not entered, with what is given instead; `middleware` goes around the rest."""
        copy = type(self)(
            self._given[0] if transport is None else transport,
            storage=self._given[1] if storage is None else storage,
            handlers=self._things,
            middleware=(*middleware, *self._middleware),
            instrumentation=instrumentation or self._instrumentation,
            service=self._service,
            strict=self._strict,
        )
        copy._named, copy._tuning = list(self._named), tuning
        copy._groups = copy._grouped()
        return copy

    async def run(self, *, only: Collection[str] | None = None, grace: timedelta = GRACE) -> bool:
        """Enter, work until SIGTERM or SIGINT, drain within `grace`; a second signal ends at once.

        Args:
            only: roles or services: "relay", "consumer:billing"; None: everything.
            grace: how long running handlers may take to end; then they are cancelled.

        Returns:
            True if everything ended within the grace.
        """
        async with until_signal() as signalled:
            await self._enter(consume=True, only=only)
            try:
                await signalled()
            finally:
                await self._leave(work_off=False, grace=grace)
            return self._drained

    async def until_idle(self, *, at_most: timedelta = timedelta(seconds=10)) -> None:
        """Return when nothing is on its way; what is due later does not count.

        Raises:
            TimeoutError: something still is.
        """
        self._refuse_unless_entered("until_idle")
        async with asyncio.timeout(at_most.total_seconds()):
            await self._rest()

    async def _rest(self, *, or_paused: bool = False) -> None:
        """Idle twice in a row without progress in between; `or_paused`: or only paused ones left."""
        loop = asyncio.get_running_loop()
        before, since = -1, loop.time()
        while True:
            progress = self._progress()
            if await self._is_idle() and progress == before:
                return
            if progress != before:
                before, since = progress, loop.time()
            elif or_paused and loop.time() - since > 1 and self._is_paused():
                return
            await asyncio.sleep(0.002)

    async def upgrade(self) -> None:
        """Bring the schema of the storage to this code's version."""
        await self._needs_storage("upgrade").upgrade()

    # -- publishing ------------------------------------------------------------------------------

    def transaction(
        self, connection: object | None = None
    ) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit of work; given a connection or session, joined to the caller's own transaction.

        Raises:
            NoTransactionError: the bus has no storage.
            StorageError: on leaving: nothing is kept. `CommitUnknownError`: perhaps all of it is.
        """
        return self._transaction(connection)

    @asynccontextmanager
    async def _transaction(self, connection: object | None) -> AsyncIterator[UnitOfWork]:
        self._refuse_unless_entered("transaction")
        storage = self._needs_storage("transaction")
        begun = storage.transaction() if connection is None else storage.enlist(connection)
        async with begun as tx:
            unit = Unit(self._publishing, tx)
            before = held.get()
            held.set(unit)
            try:
                yield unit
            finally:
                unit.open = False
                held.set(before)

    @overload
    async def publish(
        self,
        what: Event,
        *,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str: ...
    @overload
    async def publish(
        self,
        what: str,
        data: Mapping[str, Any],
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str: ...
    async def publish(
        self,
        what: Any,
        data: Any = None,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """Publish an event, or data under a name; returns the message id.

        With a storage it is committed to the outbox, without one the broker holds it.

        Raises:
            UnitOfWorkError: EB4104, this task holds a unit of work: publish on that.
            CodecError: it cannot be encoded, or a header is not allowed.
            TransportError: without a storage: the broker refused it, or may hold it.
            StorageError: with a storage: it is not kept, or may be (`CommitUnknownError`).
        """
        refuse_if_held("publish")
        if isinstance(what, str) == (data is None) or not isinstance(what, str | Event):
            raise wrong_verb(what, data)
        message = self._publishing.message(what, data, key, headers, None)
        if delay is None and self._direct is not None:
            await self._direct.publish(message)
            return message.id
        return await self._publish(message, delay)

    async def send(
        self,
        command: Command[Any],
        *,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """Send a command to its one handler; the message id. Raises what `publish` raises."""
        refuse_if_held("send")
        if not isinstance(command, Command):
            raise wrong_verb(command, None)
        return await self._publish(
            self._publishing.message(command, None, None, headers, None), delay
        )

    async def _publish(self, message: Message, delay: timedelta | None) -> str:
        if delay is not None:
            check_delay(delay, allowed=self._storage is not None)
        if self._outbox is not None:
            await self._outbox.publish(message, delay)
        elif self._direct is not None:
            await self._direct.publish(message)
        else:
            self._refuse_unless_entered("publish")
        return message.id

    # -- wiring ----------------------------------------------------------------------------------

    def subscribe(
        self,
        what: str,
        handler: Callable[[Untyped, Context], Awaitable[None]],
        *,
        group: str | Group | None = None,
    ) -> None:
        """Add a handler of a name or a wildcard; before the bus is entered.

        Raises:
            WiringError: it does not fit; EB1007, the bus is entered.
        """
        if self._stack is not None:
            raise WiringError(
                "EB1007",
                "bus.subscribe on an entered bus",
                where=f"subscribe({what!r}, …)",
                why="subscriptions are known to the broker from the start",
                next="subscribe before `async with bus`",
            )
        if group is None and self._service is None and self._scheme != "memory":
            raise WiringError(
                "EB1114",
                "bus.subscribe without a group on a bus without a service",
                where=f"subscribe({what!r}, …)",
                why="the service is the default group of the untyped form",
                next='EventBus(…, service="shop"), or group=',
            )
        given = group or self._service or "local"
        self._named.append(
            named_handler(what, handler, Group(given) if isinstance(given, str) else given)
        )
        try:
            self._groups = self._grouped()
        except WiringError:
            self._named.pop()
            raise

    def _grouped(self) -> dict[str, Routes]:
        groups = group_routes([*self._handlers, *self._named], self._registry)
        for routes in groups.values():
            routes.group = self._tuning.group(routes.group)
        return groups

    # -- looking at it ---------------------------------------------------------------------------

    async def health(self) -> Health:
        """Whether it lives and is ready, and if not, why."""
        services = {
            name: status
            for group in self._running.values()
            for name, status in group.status().items()
        }
        causes = [cause for cause in self._troubles() if cause]
        ready = self._supervisor is not None and not causes and not self._draining
        if self._draining:
            causes.append("draining")
        elif self._supervisor is None:
            causes.append("not running")
        return Health(live=True, ready=ready, causes=causes, services=services)

    async def describe(self) -> Description:
        """Groups, types and the guarantee report; not entered, from the configuration alone."""
        return Description(
            service=self._service,
            transport=self._scheme,
            storage=None if self._storage is None else scheme_of(self._given[1]),
            groups=self._groups,
            types=self._registry,
            findings=await self._findings(),
        )

    @property
    def transport(self) -> Transport:
        """What it was built with."""
        return self._transport

    @property
    def storage(self) -> Storage | None:
        """What it was built with."""
        return self._storage

    @property
    def instrumentation(self) -> Instrumentation | None:
        """What it was built with."""
        return self._instrumentation

    @property
    def outbox(self) -> Place:
        """What waits for the broker."""
        return Place(self._inspection(), "outbox")

    @property
    def parked(self) -> Place:
        """What failed and is tried again, with what waits behind it."""
        return Place(self._inspection(), "parked")

    @property
    def dead_letters(self) -> DeadLetters:
        """What was given up."""
        return DeadLetters(self._inspection(), self._registry)

    # -- inside ----------------------------------------------------------------------------------

    async def _enter(self, *, consume: bool, only: Collection[str] | None) -> None:
        if self._stack is not None:
            raise ConfigurationError(
                "EB1007",
                "the bus is entered already",
                where="async with bus",
                why="a bus has one life at a time",
                next="leave it first, or take a copy: bus.replace()",
            )
        self._refuse_unsafe(await self._findings())
        stack = AsyncExitStack()
        try:
            if self._storage is not None:
                await stack.enter_async_context(self._storage)
            await stack.enter_async_context(self._transport)
            if consume:
                self._refuse_unsafe(await self._findings())
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack
        self._stopping = asyncio.Event()
        self._draining = False
        if self._storage is None:
            self._direct = DirectPublisher(
                self._transport, scheme=self._scheme, instrumentation=self._instrumentation
            )
        else:
            self._outbox = OutboxPublisher(self._storage)
        if consume:
            services = selected(self._services(), only)
            self._supervisor = asyncio.create_task(
                supervise(services, self._stopping), name="bus:supervisor"
            )
            await self._until_subscribed(services)

    def _services(self) -> dict[str, Service]:
        assembly = Assembly(
            transport=self._transport,
            storage=self._storage,
            registry=self._registry,
            publishing=self._publishing,
            middleware=self._middleware,
            instrumentation=self._instrumentation,
            scheme=self._scheme,
            random=Random(),  # noqa: S311 - jitter
        )
        self._running = {name: assembly.group(routes) for name, routes in self._groups.items()}
        services: dict[str, Service] = {}
        for group in self._running.values():
            services |= group.services
        if self._storage is not None:
            self._relay = Relay(
                self._storage,
                self._transport,
                scheme=self._scheme,
                random=Random(),  # noqa: S311 - jitter
                batch=self._tuning.relay_batch,
                longest_poll_seconds=self._tuning.relay_poll.total_seconds(),
                instrumentation=self._instrumentation,
            )
            services["relay:0"] = self._relay
            services["retention:0"] = Retention(self._storage)
        return services

    async def _until_subscribed(self, services: Mapping[str, Service]) -> None:
        """A group that starts at the latest message must not miss the first one published here."""
        waiting = [
            group.consumer
            for name, group in self._running.items()
            if f"consumer:{name}" in services
        ]
        try:
            async with asyncio.timeout(10):
                for consumer in waiting:
                    await consumer.subscribed.wait()
        except TimeoutError:
            log.warning("not every group is subscribed yet; /readyz says which")

    async def _leave(self, *, work_off: bool, grace: timedelta) -> None:
        stack, self._stack = self._stack, None
        if stack is None:
            return
        self._stack = stack  # until_idle asks for it
        try:
            if work_off and self._supervisor is not None and not self._is_durable():
                await self._work_off(grace)
        finally:
            self._draining = True
            self._stack = None
            await self._stop(grace)
            self._outbox = self._direct = self._relay = None
            self._running = {}
            await stack.aclose()

    async def _work_off(self, grace: timedelta) -> None:
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._rest(or_paused=True)
        except TimeoutError:
            log.warning("left before everything on its way was worked off: %s passed", grace)

    async def _stop(self, grace: timedelta) -> None:
        """Soft stop, and the hard one when the grace is used up."""
        if self._outbox is not None:
            await self._outbox.drain()
        self._stopping.set()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        done, _ = await asyncio.wait([supervisor], timeout=grace.total_seconds())
        self._drained = bool(done)
        if not done:
            log.error("the grace of %s is used up: what still runs is cancelled", grace)
        self._drained = await end([supervisor]) and self._drained
        for group in self._running.values():
            group.close()

    def _is_durable(self) -> bool:
        return self._transport.capabilities.durable

    async def _is_idle(self) -> bool:
        if self._outbox is not None and not self._outbox.is_idle:
            return False
        if self._relay is not None and not await self._relay.idle():
            return False
        for group in self._running.values():
            if not await group.idle():
                return False
        return True

    def _is_paused(self) -> bool:
        return any(group.is_paused for group in self._running.values())

    def _progress(self) -> int:
        relayed = 0 if self._relay is None else self._relay.relayed
        return relayed + sum(group.progress for group in self._running.values())

    def _troubles(self) -> Iterable[str | None]:
        yield self._transport.trouble
        if self._storage is not None:
            yield self._storage.trouble
        if self._relay is not None:
            yield self._relay.trouble
        for group in self._running.values():
            yield from group.troubles()

    async def _findings(self) -> list[Finding]:
        interests = [routes.interest() for routes in self._groups.values()]
        storage = self._storage
        setting = Setting(
            has_storage=storage is not None,
            storage_durable=storage is not None and storage.capabilities.durable,
            transport_durable=self._is_durable(),
            memory=self._scheme == "memory",
            service=self._service,
        )
        return [
            *findings_of((routes.group for routes in self._groups.values()), setting),
            *await self._transport.examine(interests),
            *(() if storage is None else await storage.examine()),
        ]

    def _refuse_unsafe(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding.level == "refuse" or (self._strict and finding.level == "warn"):
                strictly = finding.level == "warn"
                raise UnsafeConfigurationError(
                    "EB1101" if strictly else finding.code,
                    finding.what,
                    where="EventBus(…, strict=True)" if strictly else "entering the bus",
                    why=f"{finding.code}: {finding.why}" if strictly else finding.why,
                    next=finding.next,
                )

    def _refuse_unless_entered(self, verb: str) -> None:
        if self._stack is None:
            raise ConfigurationError(
                "EB1007",
                f"bus.{verb} on a bus that is not entered",
                where=f"bus.{verb}",
                why="there is no connection yet, or not any more",
                next="async with bus: … or async with bus.client(): …",
            )

    def _needs_storage(self, verb: str) -> Storage:
        if self._storage is None:
            raise NoTransactionError(
                "EB4105",
                f"bus.{verb} on a bus without a storage",
                where=f"bus.{verb}",
                why="there is no database to do it in",
                next='EventBus(…, storage="sqlite:///app.db")',
            )
        return self._storage

    def _inspection(self) -> Inspection:
        return cast("Inspected", self._needs_storage("inspection")).inspection


def selected(services: Mapping[str, Service], only: Collection[str] | None) -> dict[str, Service]:
    """The services of `bus.run(only=…)`: by role or by name; a consumer brings its redelivery.

    Raises:
        ConfigurationError: EB1006, one of them names nothing.
    """
    if only is None:
        return dict(services)
    chosen: dict[str, Service] = {}
    for wish in only:
        also = wish.replace("consumer", "redelivery", 1) if wish.startswith("consumer") else wish
        found = {
            name: service
            for name, service in services.items()
            if name in {wish, also} or name.partition(":")[0] in {wish, also}
        }
        if not found:
            raise ConfigurationError(
                "EB1006",
                f"{wish!r} names nothing that runs",
                where="bus.run(only=…)",
                why=f"there are: {', '.join(services)}",
                next="name one of them, or a role like 'relay'",
            )
        chosen |= found
    return chosen


def scheme_of(adapter: object) -> str:
    """What an adapter is called in origins, metrics and reports: the scheme of its URL."""
    if isinstance(adapter, str):
        return adapter.partition("://")[0]
    while hasattr(adapter, "inner"):  # what tests wrap around it
        adapter = adapter.inner
    name = type(adapter).__name__.lower()
    return name.removesuffix("transport").removesuffix("storage") or name
