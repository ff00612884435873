"""EventBus: assembled once, as data; the facade that users hold."""

import asyncio
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
from datetime import timedelta
from types import ModuleType, TracebackType
from typing import Any, Self, cast, overload

from eventbus.bus.afterwards import Afterwards
from eventbus.bus.places import DeadLetters
from eventbus.bus.report import (
    Description,
    Health,
    findings_about,
    interests_of,
    refuse_unsafe,
    scheme_of,
)
from eventbus.bus.running import Parts, Running
from eventbus.bus.saga_desk import Sagas
from eventbus.bus.sagas import engines, register, register_messages, saga_groups
from eventbus.bus.tuning import AS_WRITTEN, Tuning
from eventbus.codec import Encoder
from eventbus.errors import ConfigurationError, Finding, NoTransactionError, WiringError
from eventbus.event import Command, Event, Untyped
from eventbus.handler import Context, Fence, Group, Middleware, UnitOfWork
from eventbus.inspection import Inspected, Inspection, Place
from eventbus.instrumentation import Instrumentation
from eventbus.keyring import MasterKeys, keyring_for
from eventbus.message import NO_HEADERS
from eventbus.pubsub.attempt import Attempts
from eventbus.pubsub.guarantees import GRACE
from eventbus.pubsub.participant_wiring import refuse_without_storage
from eventbus.pubsub.replay import ALWAYS, Between, Replay, Replayed, no_group
from eventbus.pubsub.routes import Handler, Routes, collect, group_routes, named_handler
from eventbus.pubsub.unit_of_work import (
    Publishing,
    Unit,
    check_delay,
    held,
    refuse_if_held,
    wrong_verb,
)
from eventbus.pubsub.watchdog import Watchdog
from eventbus.saga.family import families, is_saga, sagas_in
from eventbus.service import until_signal
from eventbus.sourcing.definition import definitions, is_projection, projections_in
from eventbus.sourcing.inline import Inline
from eventbus.sourcing.log import EventLog
from eventbus.sourcing.projector import Projector
from eventbus.storage import Storage, open_storage
from eventbus.storage.events import Position
from eventbus.transport import Transport, open_transport


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
        master_key: 32 bytes that wrap the keys of personal data, from outside of the database; or
            several: the first one wraps, the others still unwrap (`events.rewrap`).
        strict: warnings of the guarantee report refuse too, and only known types are published.

    Raises:
        WiringError: what was handed over does not fit together.
        ConfigurationError: no adapter for a URL; EB1122, a class has personal fields, and there is
            no master key or no storage.
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
        master_key: MasterKeys | None = None,
        strict: bool = False,
    ) -> None:
        self._master_key = master_key
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
        self._definitions = definitions(projections_in(self._things))
        self._handlers, self._registry = collect(
            thing for thing in self._things if not is_projection(thing) and not is_saga(thing)
        )
        for definition in self._definitions.values():
            for cls in definition.classes:
                self._registry.add(cls)
        self._families = families(sagas_in(self._things))
        register_messages(self._families, self._registry)
        if self._storage is None:
            refuse_without_storage(self._handlers)
        self._keyring = keyring_for(self._registry, self._storage, master_key)
        self._named: list[Handler] = []
        self._tuning = AS_WRITTEN
        encoder = Encoder(
            f"/{name}",
            max_body=self._transport.capabilities.max_body,
            registry=self._registry if strict else None,
        )
        self._afterwards = Afterwards(lambda: self._transaction(None))
        self._inline = Inline(self._definitions.values())
        self._publishing = Publishing(
            encoder,
            instrumentation,
            self._registry,
            self._afterwards.add,
            record=self._inline.append,
            keyring=self._keyring,
        )
        self._engines = engines(self._families, self._publishing, instrumentation)
        self._groups = self._grouped()
        self._events: EventLog | None = None
        self._stack: AsyncExitStack | None = None
        self._running: Running | None = None
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
            master_key=self._master_key,
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
        running = self._entered("until_idle")
        async with asyncio.timeout(at_most.total_seconds()):
            await running.rest()

    async def upgrade(self) -> None:
        """Bring the schema of the storage to this code's version."""
        await self._needs_storage("upgrade").upgrade()

    # -- publishing ------------------------------------------------------------------------------

    def transaction(
        self, connection: object | None = None, *, tenant: str = ""
    ) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit of work; given a connection or session, joined to the caller's own transaction.

        Args:
            connection: whose transaction is joined.
            tenant: whose flow begins here: of everything that is published and appended in it,
                and of the streams that are read.

        Raises:
            NoTransactionError: the bus has no storage.
            StorageError: on leaving: nothing is kept. `CommitUnknownError`: perhaps all of it is.
        """
        return self._transaction(connection, tenant)

    @asynccontextmanager
    async def _transaction(
        self, connection: object | None, tenant: str = ""
    ) -> AsyncIterator[UnitOfWork]:
        self._entered("transaction")
        storage = self._needs_storage("transaction")
        begun = storage.transaction() if connection is None else storage.enlist(connection)
        async with begun as tx:
            unit = Unit(self._publishing, tx, tenant=tenant)
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
        running = self._running or self._entered("publish")
        if delay is not None:
            check_delay(delay, allowed=self._storage is not None)
        keys = await self._publishing.keys([what], headers, None, "", None)
        message = self._publishing.message(what, data, key, headers, None, keys=keys)
        await running.publish(message, delay)
        return message.id

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
        running = self._running or self._entered("send")
        if delay is not None:
            check_delay(delay, allowed=self._storage is not None)
        keys = await self._publishing.keys([command], headers, None, "", None)
        message = self._publishing.message(command, None, None, headers, None, keys=keys)
        await running.publish(message, delay)
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
        if self._running is not None:
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
        groups |= saga_groups(self._engines, groups, self._registry)
        for routes in groups.values():
            routes.group = self._tuning.group(routes.group)
        return groups

    # -- looking at it ---------------------------------------------------------------------------

    async def health(self) -> Health:
        """Whether it lives and is ready, and if not, why."""
        if self._running is None:
            return Health(live=True, ready=False, causes=["not entered"], services={})
        return await self._running.health()

    async def describe(self) -> Description:
        """Groups, types and the guarantee report; not entered, from the configuration alone."""
        return Description(
            service=self._service,
            transport=self._scheme,
            storage=None if self._storage is None else scheme_of(self._given[1]),
            groups=self._groups,
            types=self._registry,
            findings=await self._findings(),
            interests=interests_of(self._groups, self._storage),
            sagas=[d for each in self._families.values() for d in each.definitions.values()],
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
    def projections(self) -> Projector:
        """Read models: where they stand, waiting for one.

        Raises:
            NoTransactionError: EB4105, the bus has no storage.
        """
        return Projector(
            self._needs_storage("projections"),
            self._definitions,
            self._registry,
            self._inspection(),
            encode=self._publishing.within,
        )

    @property
    def sagas(self) -> Sagas:
        """Sagas: start, look, put right.

        Raises:
            NoTransactionError: EB4105, the bus has no storage.
        """
        storage = cast("Inspected", self._needs_storage("sagas"))
        return Sagas(self._engines, storage, self._publishing)

    @property
    def parked(self) -> Place:
        """What failed and is tried again, with what waits behind it."""
        return Place(self._inspection(), "parked")

    @property
    def dead_letters(self) -> DeadLetters:
        """What was given up."""
        return DeadLetters(self._inspection(), self._registry)

    @property
    def events(self) -> EventLog:
        """The log: streams, the feed, subscriptions.

        Raises:
            NoTransactionError: EB4105, the bus has no storage.
        """
        if self._events is None:
            self._events = EventLog(
                self._needs_storage("events"),
                self._registry,
                encode=self._publishing.events,
                inline=self._inline,
                guard=refuse_if_held,
                keyring=self._keyring,
            )
        return self._events

    async def replay(
        self,
        group: str,
        *,
        after: Position = Position(0),  # noqa: B008 - an int
        upto: Position | None = None,
        between: Between = ALWAYS,
        tell: Callable[[Replayed], None] = lambda _: None,
    ) -> Replayed:
        """Feed a group from the log, beside the live one; `ctx.replaying` is True.

        What its handlers write by `ctx.sql` is written; what they publish, send and append is
        checked and counted, and does not leave. The inbox is not asked: it runs again.

        Args:
            group: its name.
            after: begin behind this position.
            upto: the last position; None: as far as the log can be read now.
            between: two moments, aware; only what was recorded then, None: whenever.
            tell: hears how far it is, after each transaction.

        Raises:
            ConfigurationError: EB1006, there is no such group, or it is a saga: what a saga did is
                not done again.
            SourcingError: EB4206, an event failed: what came before it is kept. EB4205, the log
                ends before `after`.
        """
        refuse_if_held("replay")
        self._entered("replay")
        storage = self._needs_storage("replay")
        if group not in self._groups or group in self._families:
            raise no_group(group, [name for name in self._groups if name not in self._families])
        end_at = (await self.events.read_all(after=after, limit=1)).bound
        routes = self._groups[group]
        watchdog = Watchdog(group, routes.group.timeout)
        attempts = Attempts(routes, self._registry, watchdog, middleware=self._middleware)
        replay = Replay(routes, attempts, storage, self._publishing)
        last = end_at if upto is None else min(upto, end_at)
        return await replay.run(after, last, tell, between)

    # -- inside ----------------------------------------------------------------------------------

    async def _enter(self, *, consume: bool, only: Collection[str] | None) -> None:
        if self._running is not None:
            raise ConfigurationError(
                "EB1007",
                "the bus is entered already",
                where="async with bus",
                why="a bus has one life at a time",
                next="leave it first, or take a copy: bus.replace()",
            )
        refuse_unsafe(await self._findings(), strict=self._strict)
        stack = AsyncExitStack()
        running = Running(self._parts())
        if self._events is not None:
            self._events.open()
        try:
            if self._storage is not None:
                await stack.enter_async_context(self._storage)
                if self._keyring is not None:
                    await self._keyring.check()
            await stack.enter_async_context(self._transport)
            if consume:
                refuse_unsafe(await self._findings(), strict=self._strict)
                if self._storage is not None:
                    await register(self._families, self._storage)
                    await self._inline.begin(self._storage)
                await running.start(only)
        except BaseException:
            await running.stop(timedelta())
            await stack.aclose()
            raise
        self._stack, self._running = stack, running

    async def _leave(self, *, work_off: bool, grace: timedelta) -> None:
        stack, running = self._stack, self._running
        if stack is None or running is None:
            return
        try:
            if work_off:
                await running.work_off(grace)
            if self._events is not None:
                await self._events.close()
        finally:
            try:
                self._drained = await running.stop(grace)
            finally:
                await self._afterwards.end()
                self._stack = self._running = None
                await stack.aclose()

    def _parts(self) -> Parts:
        return Parts(
            transport=self._transport,
            storage=self._storage,
            groups=self._groups,
            registry=self._registry,
            publishing=self._publishing,
            afterwards=self._afterwards,
            projections=self._definitions,
            engines=self._engines,
            tail=self.events.tail if self._storage is not None else None,
            middleware=self._middleware,
            instrumentation=self._instrumentation,
            scheme=self._scheme,
            tuning=self._tuning,
            fence=self._fence(),
        )

    def _fence(self) -> Fence | None:
        """Around the handlers of commands, if there are any."""
        if self._storage is None or all(one.kind == "event" for one in self._handlers):
            return None
        from eventbus.saga.effect import EffectFence

        limit = self._transport.capabilities.max_body
        encoder = Encoder(f"/{self._service or 'local'}", max_body=limit)
        return EffectFence(self._storage, encoder, self._registry)

    async def _findings(self) -> list[Finding]:
        return await findings_about(
            self._transport,
            self._storage,
            self._groups,
            service=self._service,
            scheme=self._scheme,
            projections=self._definitions,
            sagas=self._families,
        )

    def _entered(self, verb: str) -> Running:
        if self._running is None:
            raise ConfigurationError(
                "EB1007",
                f"bus.{verb} on a bus that is not entered",
                where=f"bus.{verb}",
                why="there is no connection yet, or not any more",
                next="async with bus: … or async with bus.client(): …",
            )
        return self._running

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
