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
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import ModuleType, TracebackType
from typing import Any, Self, cast, overload

from eventbus.bus.life import Life
from eventbus.bus.places import DeadLetters
from eventbus.bus.report import (
    Description,
    Health,
    addresses_of,
    interests_of,
    scheme_of,
)
from eventbus.bus.saga_desk import Sagas
from eventbus.bus.tuning import AS_WRITTEN, Tuning
from eventbus.bus.wiring import Given, Wiring
from eventbus.errors import CommitUnknownError, WiringError
from eventbus.event import Command, Event, Untyped
from eventbus.handler import Context, Group, Middleware, UnitOfWork
from eventbus.inspection import Inspected, Inspection, Place
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.keyring import MasterKeys
from eventbus.message import NO_HEADERS
from eventbus.pubsub.guarantees import GRACE
from eventbus.pubsub.replay import ALWAYS, Between, Replayed
from eventbus.pubsub.routes import named_handler
from eventbus.pubsub.unit_of_work import (
    Unit,
    check_delay,
    held,
    refuse_if_held,
    wrong_verb,
)
from eventbus.service import until_signal
from eventbus.sourcing.log import EventLog
from eventbus.sourcing.projector import Projector
from eventbus.storage import Storage
from eventbus.storage.events import Position
from eventbus.transport import Transport


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
        given = Given(
            transport=transport,
            storage=storage,
            handlers=tuple(handlers),
            middleware=tuple(middleware),
            instrumentation=instrumentation,
            service=service,
            master_key=master_key,
            strict=strict,
        )
        self._wiring = Wiring(given, self.transaction)
        self._life = Life(self._wiring)

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._life.enter(consume=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._life.leave(work_off=error is None, grace=GRACE)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Self]:
        """Enter for publishing and reading only; consumes, relays and projects nothing."""
        await self._life.enter(consume=False)
        try:
            yield self
        finally:
            await self._life.leave(work_off=False, grace=GRACE)

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
        given = self._wiring.given
        copy = type(self)(
            given.transport if transport is None else transport,
            storage=given.storage if storage is None else storage,
            handlers=given.handlers,
            middleware=(*middleware, *given.middleware),
            instrumentation=instrumentation or given.instrumentation,
            service=given.service,
            master_key=given.master_key,
            strict=given.strict,
        )
        copy._wiring.add(self._wiring.named, tuning=tuning)
        return copy

    async def run(self, *, only: Collection[str] | None = None, grace: timedelta = GRACE) -> bool:
        """Enter, work until SIGTERM or SIGINT, drain within `grace`; a second signal ends at once.

        Args:
            only: roles or services: "relay", "consumer:billing"; None: everything. Retention comes
                along in any case.
            grace: how long running handlers may take to end; then they are cancelled.

        Returns:
            True if everything ended within the grace.
        """
        async with until_signal() as signalled:
            await self._life.enter(consume=True, only=only)
            try:
                await signalled()
            finally:
                await self._life.leave(work_off=False, grace=grace)
            return self._life.drained

    async def until_idle(self, *, at_most: timedelta = timedelta(seconds=10)) -> None:
        """Return when nothing is on its way; what is due later does not count.

        Raises:
            TimeoutError: something still is.
        """
        running = self._life.entered("until_idle")
        async with asyncio.timeout(at_most.total_seconds()):
            await running.rest()

    async def upgrade(self) -> None:
        """Bring the schema of the storage to this code's version."""
        await self._wiring.stored("upgrade").upgrade()

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
        self._life.entered("transaction")
        storage = self._wiring.stored("transaction")
        begun = storage.transaction() if connection is None else storage.enlist(connection)
        try:
            async with begun as tx:
                unit = Unit(self._wiring.publishing, tx, tenant=tenant)
                before = held.get()
                held.set(unit)
                try:
                    yield unit
                finally:
                    unit.open = False
                    held.set(before)
        except CommitUnknownError as error:
            count_unknown(self.instrumentation, error, "transaction", "raised")
            raise

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
        return await self._out("publish", what, data, key, delay, headers)

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
        return await self._out("send", command, None, None, delay, headers)

    async def _out(
        self,
        verb: str,
        what: Any,
        data: Any,
        key: str | None,
        delay: timedelta | None,
        headers: Mapping[str, str],
    ) -> str:
        running = self._life.running or self._life.entered(verb)
        wiring = self._wiring
        if delay is not None:
            check_delay(delay, allowed=wiring.storage is not None)
        keys = await wiring.publishing.keys([what], headers, None, "", None)
        message = wiring.publishing.message(what, data, key, headers, None, keys=keys)
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
        if self._life.running is not None:
            raise WiringError(
                "EB1007",
                "bus.subscribe on an entered bus",
                where=f"subscribe({what!r}, …)",
                why="subscriptions are known to the broker from the start",
                next="subscribe before `async with bus`",
            )
        if group is None and self._wiring.given.service is None and self._wiring.scheme != "memory":
            raise WiringError(
                "EB1114",
                "bus.subscribe without a group on a bus without a service",
                where=f"subscribe({what!r}, …)",
                why="the service is the default group of the untyped form",
                next='EventBus(…, service="shop"), or group=',
            )
        group = group or self._wiring.given.name
        given = Group(group) if isinstance(group, str) else group
        self._wiring.add([named_handler(what, handler, given)])

    # -- looking at it ---------------------------------------------------------------------------

    async def health(self) -> Health:
        """Whether it lives and is ready, and if not, why."""
        return await self._life.health()

    async def describe(self) -> Description:
        """Groups, types and the guarantee report; not entered, from the configuration alone."""
        wiring = self._wiring
        storage = wiring.given.storage
        return Description(
            service=wiring.given.service,
            transport=wiring.scheme,
            storage=None if storage is None else scheme_of(storage),
            groups=wiring.groups,
            types=wiring.registry,
            findings=await wiring.findings(),
            interests=interests_of(wiring.groups, wiring.storage),
            sagas=[d for each in wiring.families.values() for d in each.definitions.values()],
            own=wiring.own,
            addresses=addresses_of(wiring.transport),
        )

    @property
    def transport(self) -> Transport:
        """What it was built with."""
        return self._wiring.transport

    @property
    def storage(self) -> Storage | None:
        """What it was built with."""
        return self._wiring.storage

    @property
    def instrumentation(self) -> Instrumentation | None:
        """What it was built with."""
        return self._wiring.given.instrumentation

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
            self._wiring.stored("projections"),
            self._wiring.definitions,
            self._wiring.registry,
            self._inspection(),
            encode=self._wiring.publishing.within,
            arrivals=self._wiring.arrivals,
        )

    @property
    def sagas(self) -> Sagas:
        """Sagas: start, look, put right.

        Raises:
            NoTransactionError: EB4105, the bus has no storage.
        """
        storage = cast("Inspected", self._wiring.stored("sagas"))
        wiring = self._wiring
        return Sagas(wiring.engines, storage, wiring.publishing, self.instrumentation)

    @property
    def parked(self) -> Place:
        """What failed and is tried again, with what waits behind it."""
        return Place(self._inspection(), "parked")

    @property
    def dead_letters(self) -> DeadLetters:
        """What was given up."""
        return DeadLetters(self._inspection(), self._wiring.registry)

    @property
    def events(self) -> EventLog:
        """The log: streams, the feed, subscriptions.

        Raises:
            NoTransactionError: EB4105, the bus has no storage.
        """
        return self._wiring.events

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
        self._life.entered("replay")
        replay = self._wiring.replay(group)
        end_at = (await self.events.read_all(after=after, limit=1)).bound
        return await replay.run(after, end_at if upto is None else min(upto, end_at), tell, between)

    def _inspection(self) -> Inspection:
        return cast("Inspected", self._wiring.stored("inspection")).inspection
