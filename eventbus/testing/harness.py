"""A bus on memory:// and sqlite://, a clock you move, a record of what was published."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from difflib import ndiff
from importlib import import_module
from typing import Any, TypeVar, overload

from eventbus.bus import EventBus
from eventbus.codec import Encoder, Registry, decode_untyped
from eventbus.event import Command, Event, TypedMessage, Untyped
from eventbus.handler import UnitOfWork
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import NO_HEADERS, Message
from eventbus.pubsub.unit_of_work import HandlerContext, Publishing, Unit
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage
from eventbus.testing.faults import FaultPlan, FaultyStorage, FaultyTransport
from eventbus.transport import Transport

M = TypeVar("M", bound=TypedMessage)
MOST_STEPS = 10_000  # of one advance: a handler that asks for a retry in no time never ends


class Clock:
    """Unix seconds that stand still until they are moved: the time of database and broker.

    Args:
        start: unix seconds; default: now.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start
        self._bus: EventBus | None = None

    def __call__(self) -> float:
        """Unix seconds."""
        return self._now

    def follow(self, bus: EventBus) -> None:
        """From now on `advance` lets this bus work off what becomes due."""
        self._bus = bus

    async def advance(self, **duration: float) -> None:
        """Move on by `timedelta(**duration)`; everything that becomes due on the way has happened.

        Goes from one due time to the next, so that a retry that fails on the way is tried again.

        Raises:
            ValueError: backwards.
            TimeoutError: the bus does not come to rest.
        """
        left = timedelta(**duration).total_seconds()
        if left < 0:
            raise ValueError("time does not go back")
        for _ in range(MOST_STEPS):
            step = await self._until_due(left)
            self._now += step
            left -= step
            if self._bus is not None:
                await self._bus.until_idle()
            if left <= 0:
                return
        raise TimeoutError(f"after {MOST_STEPS} due times there still are more")

    async def _until_due(self, at_most: float) -> float:
        """Seconds to the next due time; a millisecond is the grain of the database's clock."""
        if self._bus is None:
            return at_most
        rows = [
            *await self._bus.parked.list(limit=1000),
            *await self._bus.outbox.list(limit=1000),
        ]
        waits = [row["due_in_seconds"] + 0.001 for row in rows if row.get("due_in_seconds")]
        return float(min([*waits, at_most]))


class Published:
    """What reached the broker, once each, in that order."""

    def __init__(self) -> None:
        self._messages: dict[tuple[str, str], Message] = {}

    def record(self, message: Message) -> None:
        """Note a message; what the relay sends again is noted once."""
        self._messages.setdefault((message.source, message.id), message)

    @property
    def messages(self) -> Sequence[Message]:
        """Bytes and headers."""
        return list(self._messages.values())

    @overload
    def all(self, what: type[M]) -> list[M]: ...
    @overload
    def all(self, what: str) -> list[Untyped]: ...
    def all(self, what: Any) -> list[Any]:
        """Those of a class, or the data of those of a wire name."""
        return [_decoded(message, what) for message in self.messages if _is_a(message, what)]

    @overload
    def one(self, what: type[M]) -> M: ...
    @overload
    def one(self, what: str) -> Untyped: ...
    def one(self, what: Any) -> Any:
        """The only one of its class or wire name.

        Raises:
            AssertionError: there is none, or more than one.
        """
        found = self.all(what)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} of {_name(what)}, not one\n{self._listed()}")
        return found[0]

    def none(self, what: type[TypedMessage] | str) -> None:
        """Nothing of that class or wire name.

        Raises:
            AssertionError: there is something.
        """
        if found := self.all(what):
            raise AssertionError(f"{len(found)} of {_name(what)}, not none\n{self._listed()}")

    def in_order(self, *expected: type[TypedMessage] | TypedMessage) -> None:
        """Those of the classes named here came in exactly this order; others do not matter.

        Args:
            expected: classes, or messages where the fields count too.

        Raises:
            AssertionError: they did not.
        """
        classes = {each if isinstance(each, type) else type(each) for each in expected}
        registry = Registry(classes)
        came = [registry.decode(each) for each in self.messages if each.type in registry]
        if len(came) == len(expected) and all(map(_fits, came, expected)):
            return
        wanted = [each.__name__ if isinstance(each, type) else repr(each) for each in expected]
        got = [
            type(one).__name__
            if place < len(expected) and isinstance(expected[place], type)
            else repr(one)
            for place, one in enumerate(came)
        ]
        difference = "\n".join(ndiff(wanted, got))
        raise AssertionError(f"not in this order (- expected, + published)\n{difference}")

    def _listed(self) -> str:
        lines = [f"  {each.type} {each.key or ''} {each.payload!r:.200}" for each in self.messages]
        return "\n".join(["published was:", *lines] if lines else ["nothing was published"])


def _decoded(message: Message, what: type[TypedMessage] | str) -> TypedMessage | Untyped:
    return decode_untyped(message) if isinstance(what, str) else Registry([what]).decode(message)


def _is_a(message: Message, what: type[TypedMessage] | str) -> bool:
    return message.type == (what if isinstance(what, str) else _wire_type(what))


def _wire_type(what: type[TypedMessage]) -> str:
    if what.__wire__ is None:
        raise TypeError(f"{what.__name__} has no wire type: nothing of it is ever published")
    return what.__wire__.type


def _name(what: type[TypedMessage] | str) -> str:
    return what if isinstance(what, str) else what.__name__


def _fits(came: TypedMessage, expected: type[TypedMessage] | TypedMessage) -> bool:
    return type(came) is expected if isinstance(expected, type) else came == expected


class RecordingBroker(MemoryBroker):
    """A broker in memory that tells a record of everything it stores."""

    def __init__(self, published: Published, **options: Any) -> None:
        super().__init__(**options)
        self._published = published

    def store(self, message: Message, malformed: str | None = None, *, again: bool = False) -> bool:
        """Append to the topic, and note it."""
        stored = super().store(message, malformed, again=again)
        if stored and malformed is None:
            self._published.record(message)
        return stored


class Harness:
    """A copy of a bus on memory:// and sqlite:// in memory, on one clock, not entered.

    Args:
        app: what is copied.
        clock: time of both.
        published: is told what reaches the broker.
        plan: faults around both; none: the plain adapters.
    """

    def __init__(
        self,
        app: EventBus,
        *,
        clock: Clock,
        published: Published,
        plan: FaultPlan | None = None,
    ) -> None:
        transport: Transport = MemoryTransport(RecordingBroker(published, now=clock))
        storage: Storage = SqliteStorage(now=clock)
        if plan is not None:
            transport, storage = FaultyTransport(transport, plan), FaultyStorage(storage, plan)
        self._plan = plan
        self.bus: EventBus = app.replace(transport=transport, storage=storage)
        clock.follow(self.bus)

    async def failures(self) -> Sequence[str]:
        """What handlers failed and nobody put right, a line each; while the bus is entered."""
        if self._plan is not None:
            self._plan.heal()
        with contextlib.suppress(TimeoutError):  # leaving says what is still on its way
            await self.bus.until_idle()
        return await failed(self.bus)


async def failed(bus: EventBus) -> list[str]:
    """What handlers of an entered bus failed and nobody put right, a line each."""
    rows = [*await bus.parked.list(), *await bus.dead_letters.list()]
    return [
        f"  {row['group']}: {row['type']} {row['key'] or ''} "
        f"{row['reason']} after {row['attempts']} attempts: {row['error_type']}: {row['error']}"
        for row in rows
        if row["reason"] is not None
    ]


class RecordedContext(HandlerContext):
    """The Context of a handler that is called as the function it is."""

    __slots__ = ("published", "sent")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.published: list[Event | Untyped] = []
        self.sent: list[Command[Any]] = []

    async def publish(
        self,
        what: Any,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """Note it, checked as in every context; with a transaction it is in its outbox too."""
        message_id = await super().publish(what, data, key=key, delay=delay, headers=headers)
        self.published.append(what if isinstance(what, Event) else Untyped(what, data or {}))
        return message_id

    async def send(
        self,
        command: Command[Any],
        *,
        delay: timedelta | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """Note it, as `publish` does."""
        message_id = await super().send(command, delay=delay, headers=headers)
        self.sent.append(command)
        return message_id


def context_for(
    event: TypedMessage,
    *,
    group: str = "test",
    attempt: int = 1,
    headers: Mapping[str, str] = NO_HEADERS,
    within: UnitOfWork | None = None,
) -> RecordedContext:
    """A Context for calling a handler directly: `.published` and `.sent` are what it asked for.

    Args:
        event: what the handler gets.
        group: for `ctx.group` and the idempotency key.
        attempt: from 1.
        headers: further CloudEvents attributes of the message.
        within: a unit of work of `bus.transaction()`: its `sql`, `storage`, `resource`, and the
            types its bus knows; without one these raise NoTransactionError.
    """
    known = within.registry if isinstance(within, Unit) else None
    publishing = Publishing(Encoder("/test", max_body=1 << 20), None, known)
    message = publishing.message(event, None, None, headers, None)
    tx = None if within is None else within.storage
    return RecordedContext(publishing, tx, message, group=group, attempt=attempt)


def locate(target: str) -> EventBus:
    """The bus that "shop.app:bus" names.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
        TypeError: it is no EventBus.
    """
    module, _, name = target.partition(":")
    found = getattr(import_module(module), name or "bus")
    if not isinstance(found, EventBus):
        raise TypeError(f"it is a {type(found).__name__}, not an EventBus")
    return found
