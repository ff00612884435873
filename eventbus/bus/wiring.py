"""What a bus is assembled from: worked out once from what was handed over, as data."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from eventbus.bus.afterwards import Afterwards
from eventbus.bus.report import findings_about, scheme_of
from eventbus.bus.running import Parts
from eventbus.bus.sagas import engines, register, register_messages, saga_groups
from eventbus.bus.tuning import AS_WRITTEN, Tuning
from eventbus.codec import Encoder, Registry
from eventbus.errors import Finding, NoTransactionError, WiringError
from eventbus.event import TypedMessage
from eventbus.handler import Fence, Middleware, UnitOfWork
from eventbus.instrumentation import Instrumentation
from eventbus.keyring import Keyring, MasterKeys, keyring_for
from eventbus.pubsub.attempt import Attempts
from eventbus.pubsub.participant_wiring import refuse_without_storage
from eventbus.pubsub.replay import Replay, no_group
from eventbus.pubsub.routes import Handler, Routes, collect, group_routes, reads_in
from eventbus.pubsub.unit_of_work import Publishing, refuse_if_held
from eventbus.pubsub.watchdog import Watchdog
from eventbus.saga.engine import Engine
from eventbus.saga.family import Family, families, is_saga, sagas_in
from eventbus.sourcing.arrivals import Arrivals
from eventbus.sourcing.definition import Definition, definitions, is_projection, projections_in
from eventbus.sourcing.inline import Inline
from eventbus.sourcing.log import EventLog
from eventbus.storage import Storage, open_storage
from eventbus.transport import Transport, open_transport

Begin = Callable[[], AbstractAsyncContextManager[UnitOfWork]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The arguments of `EventBus`."""

    transport: str | Transport
    storage: str | Storage | None
    handlers: tuple[Callable[..., Any] | type | object | ModuleType, ...]
    middleware: tuple[Middleware, ...]
    instrumentation: Instrumentation | None
    service: str | None
    master_key: MasterKeys | None
    strict: bool

    @property
    def name(self) -> str:
        """Of the service, for the source of messages and the names of groups."""
        return self.service or "local"


class Wiring:
    """The groups, read models and sagas of a bus, and what they share.

    Args:
        given: what the bus was handed.
        begin: a unit of work of the bus, for what is done after a commit.

    Raises:
        WiringError: what was handed over does not fit together.
        ConfigurationError: as `EventBus`.
    """

    def __init__(self, given: Given, begin: Begin) -> None:
        self.given = given
        self.transport: Transport = _transport(given)
        self.storage: Storage | None = _storage(given)
        self.scheme: str = scheme_of(given.transport)
        self.tuning: Tuning = AS_WRITTEN
        self.named: list[Handler] = []  # by bus.subscribe
        self.definitions: dict[str, Definition] = definitions(projections_in(given.handlers))
        self.handlers: list[Handler]
        self.registry: Registry
        self.handlers, self.registry = collect(
            thing for thing in given.handlers if not is_projection(thing) and not is_saga(thing)
        )
        for definition in self.definitions.values():
            for cls in definition.classes:
                self.registry.add(cls)
        self.families: dict[str, Family] = families(sagas_in(given.handlers))
        register_messages(self.families, self.registry)
        if self.storage is None:
            refuse_without_storage(self.handlers)
        self.keyring: Keyring | None = keyring_for(self.registry, self.storage, given.master_key)
        self.afterwards: Afterwards = Afterwards(begin)
        self.arrivals: Arrivals = Arrivals()
        self.inline: Inline = Inline(self.definitions.values())
        self.publishing: Publishing = Publishing(
            self._encoder(strict=given.strict),
            given.instrumentation,
            self.registry,
            self.afterwards.add,
            record=self.inline.append,
            keyring=self.keyring,
        )
        self.engines: Mapping[str, Engine] = engines(
            self.families, self.publishing, given.instrumentation
        )
        self.groups: dict[str, Routes] = self._grouped()
        self._events: EventLog | None = None

    def add(self, handlers: Sequence[Handler], *, tuning: Tuning | None = None) -> None:
        """Handlers beside the given ones, and what the worker's flags say.

        Raises:
            WiringError: they do not fit; nothing is added.
        """
        before = self.named
        self.named = [*before, *handlers]
        self.tuning = tuning or self.tuning
        try:
            self.groups = self._grouped()
        except WiringError:
            self.named = before
            raise

    @property
    def events(self) -> EventLog:
        """The log, made when it is first asked for."""
        if self._events is None:
            self._events = EventLog(
                self.stored("events"),
                self.registry,
                encode=self.publishing.events,
                inline=self.inline,
                guard=refuse_if_held,
                keyring=self.keyring,
                instrumentation=self.given.instrumentation,
            )
        return self._events

    @property
    def own(self) -> frozenset[type[TypedMessage]]:
        """Of these the app is the origin: handed over themselves, or read from its log."""
        applied = (cls for thing in self.given.handlers for cls in reads_in(thing))
        projected = (cls for each in self.definitions.values() for cls in each.classes)
        return frozenset((*applied, *projected))

    def open_events(self) -> None:
        """The bus is entered: what reads the log may do so again."""
        if self._events is not None:
            self._events.open()

    async def close_events(self) -> None:
        """The bus is left: end what reads the log."""
        if self._events is not None:
            await self._events.close()

    async def prepare(self) -> None:
        """Before anything runs on the storage: sagas are registered, inline read models begun."""
        if self.storage is not None:
            await register(self.families, self.storage)
            await self.inline.begin(self.storage)

    def stored(self, verb: str) -> Storage:
        """The storage.

        Raises:
            NoTransactionError: EB4105, the bus has none.
        """
        if self.storage is None:
            raise NoTransactionError(
                "EB4105",
                f"bus.{verb} on a bus without a storage",
                where=f"bus.{verb}",
                why="there is no database to do it in",
                next='EventBus(…, storage="sqlite:///app.db")',
            )
        return self.storage

    def parts(self) -> Parts:
        """What runs while the bus is entered is made of these."""
        given = self.given
        return Parts(
            transport=self.transport,
            storage=self.storage,
            groups=self.groups,
            registry=self.registry,
            publishing=self.publishing,
            afterwards=self.afterwards,
            projections=self.definitions,
            engines=self.engines,
            tail=None if self.storage is None else self.events.tail,
            arrivals=self.arrivals,
            middleware=given.middleware,
            instrumentation=given.instrumentation,
            scheme=self.scheme,
            tuning=self.tuning,
            fence=self._fence(),
        )

    async def findings(self) -> list[Finding]:
        """The guarantee report."""
        return await findings_about(
            self.transport,
            self.storage,
            self.groups,
            service=self.given.service,
            scheme=self.scheme,
            projections=self.definitions,
            sagas=self.families,
        )

    def replay(self, group: str) -> Replay:
        """What feeds a group from the log.

        Raises:
            ConfigurationError: EB1006, there is no such group, or it is a saga.
        """
        storage = self.stored("replay")
        names = [name for name in self.groups if name not in self.families]
        if group not in names:
            raise no_group(group, names)
        routes = self.groups[group]
        watchdog = Watchdog(group, routes.group.timeout)
        attempts = Attempts(routes, self.registry, watchdog, middleware=self.given.middleware)
        return Replay(routes, attempts, storage, self.publishing)

    def _grouped(self) -> dict[str, Routes]:
        groups = group_routes([*self.handlers, *self.named], self.registry)
        groups |= saga_groups(self.engines, groups, self.registry)
        for routes in groups.values():
            routes.group = self.tuning.group(routes.group)
        return groups

    def _fence(self) -> Fence | None:
        """Around the handlers of commands, if there are any."""
        if self.storage is None or all(one.kind == "event" for one in self.handlers):
            return None
        from eventbus.saga.effect import EffectFence

        return EffectFence(self.storage, self._encoder(), self.registry)

    def _encoder(self, *, strict: bool = False) -> Encoder:
        limit = self.transport.capabilities.max_body
        registry = self.registry if strict else None
        return Encoder(f"/{self.given.name}", max_body=limit, registry=registry)


def _transport(given: Given) -> Transport:
    if isinstance(given.transport, str):
        return open_transport(given.transport, given.name)
    return given.transport


def _storage(given: Given) -> Storage | None:
    if isinstance(given.storage, str):
        return open_storage(given.storage, given.name)
    return given.storage
