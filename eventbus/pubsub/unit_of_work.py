"""UnitOfWork and Context over a transaction or a buffer; the ContextVar behind EB4104."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from time import perf_counter
from typing import Any, Protocol, TypeVar

from eventbus.codec import Encoder, Registry, is_personal, subjects_of, tenant_of
from eventbus.errors import NoTransactionError, UnitOfWorkError, WiringError
from eventbus.event import Command, Event, TypedMessage
from eventbus.handler import Effect, UnitOfWork
from eventbus.instrumentation import Instrumentation
from eventbus.keyring import Keyring, no_keyring
from eventbus.message import NO_HEADERS, Message
from eventbus.personal import Opening
from eventbus.sealing import NO_KEYS, Key, Keys, Subject
from eventbus.storage import Transaction
from eventbus.storage.events import Append, Appended, Expected
from eventbus.storage.sql import Sql

T = TypeVar("T")


class Open(Protocol):
    """Something that is held: a unit of work, or a batch of a group."""

    @property
    def open(self) -> bool:
        """False once the block was left."""
        ...


class Holding:
    """What a lane holds while handlers run: the reason for EB4104."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: bool = True


held: ContextVar[Open | None] = ContextVar("eventbus_held", default=None)


def refuse_if_held(verb: str) -> None:
    """Raise EB4104 in a task that holds a unit of work, or that was started by one inside it."""
    unit = held.get()
    if unit is None or not unit.open:
        return
    frame = sys._getframe(2)  # the line that called bus.publish
    code = frame.f_code
    own = verb.rpartition(".")[2]  # what a unit of work calls it: of bus.events.append, append
    raise UnitOfWorkError(
        "EB4104",
        f"bus.{verb} in a task that holds a unit of work",
        where=f"{code.co_filename}:{frame.f_lineno} in {code.co_name}",
        why="it would be a transaction of its own: published though yours rolls back, and a second"
        " connection while yours is held",
        next=f"await tx.{own}(…); in a handler: await ctx.{own}(…)",
    )


Afterwards = Callable[[str, Callable[[UnitOfWork], Awaitable[None]]], None]
"""(name, work): done beside the traffic, in a unit of work of its own."""


def nowhere(name: str, work: Callable[[UnitOfWork], Awaitable[None]]) -> None:
    """Where there is no bus nothing is done afterwards."""


Record = Callable[[Transaction, Append, Sequence[Event]], Awaitable[Appended]]
"""Append events, given as messages and as they are, and what is to commit with them."""


async def plainly(tx: Transaction, append: Append, events: Sequence[Event]) -> Appended:
    """Nothing commits with them."""
    return await tx.events.append(append, conflicting=True)


class Publishing:
    """How a unit of work makes and reads messages: shared by all units of a bus."""

    def __init__(
        self,
        encoder: Encoder,
        instrumentation: Instrumentation | None,
        registry: Registry | None = None,
        afterwards: Afterwards = nowhere,
        record: Record = plainly,
        keyring: Keyring | None = None,
    ) -> None:
        self._encoder = encoder
        self._keyring = keyring
        self._instrumentation = instrumentation
        self.registry: Registry = Registry() if registry is None else registry
        self.afterwards: Afterwards = afterwards
        self.record: Record = record

    def message(
        self,
        what: TypedMessage | str,
        data: Mapping[str, Any] | None,
        key: str | None,
        headers: Mapping[str, str],
        cause: Message | None,
        tenant: str = "",
        keys: Mapping[Subject, Key] | None = None,
    ) -> Message:
        """Encode, once; raises what `Encoder` raises.

        `keys` are those that `keys` answered; only what has no personal fields, or passes on
        sealed ones, can be encoded without.
        """
        if self._instrumentation is not None:
            with self._creating(what) as extra:
                headers = {**headers, **extra}
        if isinstance(what, str):
            return self._encoder.untyped(what, data or {}, key, headers, cause, tenant)
        return self._encoder.typed(what, headers, cause, tenant, keys)

    async def events(
        self,
        events: Sequence[Event],
        headers: Mapping[str, str] = NO_HEADERS,
        cause: Message | None = None,
        tenant: str = "",
        *,
        tx: Transaction | None = None,
    ) -> list[Message]:
        """Several, encoded; the keys of all of them are read at once.

        Args:
            events: in their order.
            headers: further attributes of each.
            cause: what is being handled.
            tenant: of a flow that begins here.
            tx: that the caller holds.
        """
        keys = await self.keys(events, headers, cause, tenant, tx)
        return [self.message(each, None, None, headers, cause, tenant, keys) for each in events]

    async def recorded(self, tx: Transaction, append: Append, events: Sequence[Event]) -> Appended:
        """Record events with what commits with them, and report how long it took."""
        began = perf_counter()
        appended = await self.record(tx, append, events)
        if self._instrumentation is not None:
            self._instrumentation.observe("append_duration_seconds", perf_counter() - began)
        return appended

    async def within(self, event: Event, tx: Transaction) -> Message:
        """One event of no flow, encoded in a transaction."""
        (message,) = await self.events([event], tx=tx)
        return message

    async def keys(
        self,
        whats: Sequence[object],
        headers: Mapping[str, str],
        cause: Message | None,
        tenant: str,
        tx: Transaction | None,
    ) -> Mapping[Subject, Key] | None:
        """What encoding them needs; None, at no cost: nothing.

        Raises:
            ConfigurationError: EB1122, there is no master key, or no storage.
            PersonalDataError: EB3117, EB3119, a subject is missing, or has no fit name.
        """
        personal = [what for what in whats if is_personal(what)]
        if not personal:
            return None
        if self._keyring is None:
            raise no_keyring(type(personal[0]).__qualname__, storage=tx is not None)
        whose = tenant_of(headers, cause, tenant)
        subjects: dict[Subject, None] = {}
        for what in personal:
            assert isinstance(what, TypedMessage)  # noqa: S101 - only those are personal
            subjects.update(subjects_of(what, whose))
        return await self._keyring.sealing(subjects, tx)

    def _creating(self, what: TypedMessage | str) -> AbstractContextManager[Mapping[str, str]]:
        assert self._instrumentation is not None  # noqa: S101 - asked by the only caller
        if isinstance(what, str):
            return self._instrumentation.creating(what, what.partition(".")[0])
        wire = type(what).__wire__
        if wire is None:
            return nullcontext(NO_HEADERS)
        return self._instrumentation.creating(wire.type, wire.topic)


class Unit:
    """Everything in it commits together: over a transaction, or, without one, a buffer."""

    __slots__ = ("_cause", "_delays", "_publishing", "_tenant", "_tx", "messages", "open")

    def __init__(
        self,
        publishing: Publishing,
        tx: Transaction | None,
        *,
        cause: Message | None = None,
        delays: bool = True,
        tenant: str = "",
    ) -> None:
        self._publishing = publishing
        self._tenant = tenant if cause is None else cause.tenant
        self._tx = tx
        self._cause = cause
        self._delays = delays
        self.messages: list[tuple[Message, timedelta | None]] = []
        self.open: bool = True

    @property
    def sql(self) -> Sql:
        """SQL in this transaction."""
        return self.storage.sql

    @property
    def storage(self) -> Transaction:
        """The transaction itself."""
        self._refuse_if_over()
        if self._tx is None:
            raise NoTransactionError(
                "EB4105",
                "there is no transaction here",
                where=self._place(),
                why="the bus has no storage, or the group says transactional=False",
                next='EventBus(…, storage="sqlite:///app.db"), and transactional=True',
            )
        return self._tx

    @property
    def registry(self) -> Registry:
        """The classes that reading knows."""
        return self._publishing.registry

    async def resource(self, kind: type[T]) -> T:
        """The transaction's own connection of that kind, with BEGIN and savepoint sent."""
        await self.sql.fetch("SELECT 1")  # whatever is due goes out with the first statement
        return self.storage.resource(kind)

    @property
    def tenant(self) -> str:
        """Whose flow it is."""
        return self._tenant

    async def openings(self, messages: Sequence[Message]) -> Sequence[Opening | None]:
        """With what they are to be decoded."""
        return await self._publishing.registry.openings(messages, self._tx)

    async def keys(self, sealed: Sequence[bytes]) -> Keys:
        """The keys of what was sealed as a whole."""
        source = self._publishing.registry.keys
        return NO_KEYS if source is None else await source.opening(sealed, self._tx)

    def decode(self, message: Message, opening: Opening | None = None) -> TypedMessage:
        """A message of the log, in its current version."""
        return self._publishing.registry.decode(message, opening)

    def afterwards(self, name: str, work: Callable[[UnitOfWork], Awaitable[None]]) -> None:
        """Let the bus do it beside the traffic."""
        self._publishing.afterwards(name, work)

    async def publish(
        self,
        what: Any,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """Publish an event, or data under a name, with this unit of work."""
        if isinstance(what, str) == (data is None) or not isinstance(what, str | Event):
            raise wrong_verb(what, data)
        keys = await self._keys([what], headers)
        return await self._add(
            self._publishing.message(what, data, key, headers, self._cause, self._tenant, keys),
            delay,
        )

    async def send(
        self,
        command: Command[Any],
        *,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """Send a command with this unit of work."""
        if not isinstance(command, Command):
            raise wrong_verb(command, None)
        keys = await self._keys([command], headers)
        return await self._add(
            self._publishing.message(command, None, None, headers, self._cause, self._tenant, keys),
            delay,
        )

    async def append(
        self, stream: str, events: Sequence[Event], *, expected: Expected, publish: bool = True
    ) -> Appended:
        """Record events in a stream, and publish them under the same ids."""
        tx = self.storage
        for event in events:
            if not isinstance(event, Event):
                raise wrong_verb(event, None)
        messages = await self._publishing.events(
            events, NO_HEADERS, self._cause, self._tenant, tx=tx
        )
        append = Append(
            stream=stream,
            messages=messages,
            expected=expected,
            publish=messages if publish else (),
        )
        return await self._publishing.recorded(tx, append, events)

    async def _keys(
        self, whats: Sequence[object], headers: Mapping[str, str]
    ) -> Mapping[Subject, Key] | None:
        return await self._publishing.keys(whats, headers, self._cause, self._tenant, self._tx)

    async def _add(self, message: Message, delay: timedelta | None) -> str:
        self._refuse_if_over()
        if delay is not None:
            check_delay(delay, allowed=self._delays)
        if self._tx is None:
            self.messages.append((message, delay))
        else:
            await self._tx.outbox.add([message], delay=delay)
        return message.id

    def _refuse_if_over(self) -> None:
        if not self.open:
            raise UnitOfWorkError(
                "EB4106",
                "the unit of work is over",
                where=self._place(),
                why="its block was left: what is added now would be lost",
                next="await everything inside the block",
            )

    def _place(self) -> str:
        return "bus.transaction()"


class HandlerContext(Unit):
    """The Context of one message in one group."""

    __slots__ = ("attempt", "effect", "group", "message", "replaying")

    def __init__(
        self,
        publishing: Publishing,
        tx: Transaction | None,
        message: Message,
        *,
        group: str,
        attempt: int = 1,
        delays: bool = True,
    ) -> None:
        super().__init__(publishing, tx, cause=message, delays=delays)
        self.message: Message = message
        self.group: str = group
        self.attempt: int = attempt
        self.replaying: bool = False
        self.effect: Effect | Exception | None = None  # begun before, or why it was not

    def block(self) -> AbstractAsyncContextManager[None]:
        """What is undone alone if it raises; without a transaction nothing is."""
        return nullcontext() if self._tx is None else self._tx.savepoint()

    @property
    def tx(self) -> Transaction | None:
        """What it is over; None: a buffer."""
        return self._tx

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt."""
        effect = self.message.headers.get("sagaeffect")
        return f"{self.group}:{effect or self.message.identity}"

    def _place(self) -> str:
        return f"a handler of group {self.group!r}, message {self.message.id}"


def check_delay(delay: timedelta, *, allowed: bool) -> None:
    """Raise EB1105 for a delay that cannot be kept."""
    if allowed and delay >= timedelta():
        return
    raise WiringError(
        "EB1105",
        f"delay={delay} cannot be kept",
        where="publish or send",
        why="a delay is a duration from now"
        if allowed
        else "delayed messages wait in the outbox, and this bus has no storage",
        next="give a positive timedelta" if allowed else "EventBus(…, storage=…)",
    )


def wrong_verb(what: object, data: object) -> WiringError:
    """EB1204: what was given is not what the verb takes."""
    name = what if isinstance(what, str) else type(what).__name__
    if isinstance(what, Command):
        why, what_next = "a command has one handler and a reply; an event has many", "send(command)"
    elif isinstance(what, Event):
        why, what_next = "an event is published, and its data are its fields", "publish(event)"
    elif isinstance(what, str) and data is None:
        why, what_next = "an untyped message needs its data", f"publish({what!r}, {{…}}, key=…)"
    else:
        why, what_next = (
            "only events are published, only commands are sent",
            "declare an Event class",
        )
    return WiringError(
        "EB1204", f"{name!r} cannot go this way", where="publish or send", why=why, next=what_next
    )
